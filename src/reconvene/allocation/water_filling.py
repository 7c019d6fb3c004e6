"""Water level: each ladder is on the lowest rung that loses no more than the level, and the level sinks while it can.

Where budgets stop some groups earlier than others (a peak of memory concerns few of them), those stay and the level
goes on sinking for the rest: the allocation is lexicographically smallest in its worst losses, up to rungs. When it
ends no ladder can climb one rung within the budget, because costs never fall when a width grows.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from reconvene.allocation.candidates import Ladders
from reconvene.allocation.feasibility import PriceMeter
from reconvene.utils.arrays import Widths


def sink(ladders: Ladders, meter: PriceMeter) -> tuple[float, Widths, Widths]:
    """The water level, the position at it, and the position once it can sink no further for any ladder.

    The lowest rungs must keep the budget.
    """
    everyone = np.ones(len(ladders), dtype=bool)
    level, base = _lowest(ladders, np.zeros_like(ladders.top), everyone, meter)
    position = base.copy()
    free = position < ladders.top
    while free.any():
        levels = np.where(free, ladders.at_position(ladders.level, position), -np.inf)
        for u in np.flatnonzero(levels == levels.max()):
            if not climb(ladders, position, int(u), meter):
                free[u] = False
        free &= position < ladders.top
        if free.any():
            _, position = _lowest(ladders, position, free, meter)
            free &= position < ladders.top
    return level, base, position


def climb(ladders: Ladders, position: Widths, ladder: int, meter: PriceMeter) -> bool:
    """Move one ladder up a rung, in place, if the budget stays kept."""
    position[ladder] += 1
    if meter.fits(ladders.widths(position)):
        return True
    position[ladder] -= 1
    return False


def _lowest(ladders: Ladders, position: Widths, free: NDArray[np.bool_], meter: PriceMeter) -> tuple[float, Widths]:
    """The lowest level the ``free`` ladders can sink to, others staying: bisected over the levels that occur."""
    reachable = ladders.level[free][np.arange(ladders.level.shape[1]) >= position[free][:, None]]
    levels = np.unique(reachable)

    def position_at(level: float) -> Widths:
        return np.where(free, np.maximum(position, ladders.position_at(level)), position)

    low, high = 0, len(levels) - 1
    while low < high:
        middle = (low + high) // 2
        if meter.fits(ladders.widths(position_at(float(levels[middle])))):
            high = middle
        else:
            low = middle + 1
    return float(levels[high]), position_at(float(levels[high]))
