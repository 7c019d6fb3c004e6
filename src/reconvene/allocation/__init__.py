"""Allocation: the solver that chooses widths within a budget."""

from __future__ import annotations

from reconvene.allocation.result import Allocation, AllocationRow
from reconvene.allocation.solver import allocate

__all__ = ["Allocation", "AllocationRow", "allocate"]
