"""Many budgets, many devices, many machines: a portfolio of networks from one file."""

from __future__ import annotations

from reconvene.fleet.config import Device, Fleet, read_fleet
from reconvene.fleet.fit import Candidate, Ranking, rank
from reconvene.fleet.loss import predicted_loss
from reconvene.fleet.page import front, write_page
from reconvene.fleet.portfolio import Result, Row, run_fleet

__all__ = [
    "Candidate",
    "Device",
    "Fleet",
    "Ranking",
    "Result",
    "Row",
    "front",
    "predicted_loss",
    "rank",
    "read_fleet",
    "run_fleet",
    "write_page",
]
