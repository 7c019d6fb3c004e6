"""Allocation: budgets, what widths cost, and the solver that chooses widths."""

from __future__ import annotations

from reconvene.allocation.budget import Budget
from reconvene.allocation.result import Allocation, Row
from reconvene.allocation.solver import allocate

__all__ = ["Allocation", "Budget", "Row", "allocate"]
