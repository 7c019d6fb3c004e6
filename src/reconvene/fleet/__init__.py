"""Many budgets, many devices, many machines: a portfolio of networks from one file."""

from __future__ import annotations

from reconvene.fleet.config import read_fleet
from reconvene.fleet.device_result import DeviceRow, RankedModel, Result, front
from reconvene.fleet.fit import Ranking, rank
from reconvene.fleet.loss import predicted_loss
from reconvene.fleet.options import Device, Fleet
from reconvene.fleet.page import write_page
from reconvene.fleet.portfolio import run_fleet

__all__ = [
    "Device",
    "DeviceRow",
    "Fleet",
    "RankedModel",
    "Ranking",
    "Result",
    "front",
    "predicted_loss",
    "rank",
    "read_fleet",
    "run_fleet",
    "write_page",
]
