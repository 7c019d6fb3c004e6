"""One choice a place from several, each with a loss and a price, by the solver that decides widths."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from reconvene.allocation.candidates import Ladder, Ladders
from reconvene.allocation.feasibility import PriceMeter
from reconvene.allocation.lagrangian import minimise_loss
from reconvene.allocation.local_search import trade
from reconvene.allocation.water_filling import sink
from reconvene.errors import PinnedCost
from reconvene.utils.arrays import Floats

COST = "price"
NEGLIGIBLE = 1e-6


@dataclass(frozen=True)
class PricedChoice:
    """One way to fill a place; losses of all places add up, and so do prices."""

    name: str
    loss: float
    price: float


def choose_within(places: Sequence[Sequence[PricedChoice]], limit: float) -> list[PricedChoice] | None:
    """One choice a place with the least sum of losses whose prices add up to at most ``limit``.

    Args:
        places: what each can be filled with, one at least.
        limit: ``inf`` takes the choice of least loss everywhere, and of equal ones the cheapest.

    Returns None where even the cheapest choices are above the limit.
    """
    fronts = [_front(choices) for choices in places]
    if not fronts:
        return []
    prices = [np.array([choice.price for choice in front]) for front in fronts]
    ladders = Ladders([_ladder(index, front) for index, front in enumerate(fronts)])
    meter = PriceMeter(_Prices(prices), {COST: limit} if np.isfinite(limit) else {})
    if not meter.fits(ladders.widths(np.zeros_like(ladders.top))):
        return None
    if not meter.limits:
        position = ladders.top
    else:
        _, _, position = sink(ladders, meter)
        position = minimise_loss(ladders, position, meter)
        position = trade(ladders, position, meter, cap=np.inf)
    return [front[int(rung)] for front, rung in zip(fronts, position, strict=True)]


def _front(choices: Sequence[PricedChoice]) -> list[PricedChoice]:
    """The choices that no other beats in both, from the cheapest to that of least loss.

    Two losses that are nearer than ``NEGLIGIBLE`` of the place's largest one are the same: the cheaper choice is taken.
    """
    noise = NEGLIGIBLE * max(choice.loss for choice in choices)
    front: list[PricedChoice] = []
    for choice in sorted(choices, key=lambda choice: (choice.price, choice.loss, choice.name)):
        if not front or choice.loss < front[-1].loss - noise:
            front.append(choice)
    return front


def _ladder(index: int, front: Sequence[PricedChoice]) -> Ladder:
    """Rungs are positions in the front; what is lost beside the last one counts."""
    losses = np.array([choice.loss for choice in front], dtype=np.float64)
    rungs = np.arange(len(front), dtype=np.int64)[:, None]
    return Ladder((index,), rungs, losses - losses[-1], np.sqrt(losses - losses[-1]))


class _Prices:
    """What the solver asks: the sum of prices at positions in the fronts."""

    def __init__(self, prices: Sequence[Floats]) -> None:
        self._prices = prices
        self.dense: Mapping[str, float] = {COST: float(sum(front[-1] for front in prices))}

    def evaluate(self, cost: str, widths: NDArray[np.int64]) -> float:
        """The sum at these positions."""
        return float(sum(front[int(rung)] for front, rung in zip(self._prices, widths, strict=True)))

    def pinned(self, cost: str, floor: float) -> PinnedCost | None:
        """Nothing is."""
        return None
