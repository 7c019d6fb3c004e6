"""The only caller of cost models: it counts evaluations and checks widths against the budget."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from reconvene.errors import PinnedCost
from reconvene.utils.arrays import Widths


class Costs(Protocol):
    """What the solver needs of ``CostModel``: exact costs, nondecreasing in every width."""

    @property
    def dense(self) -> Mapping[str, float]:
        """Every cost of the whole network."""
        ...

    def evaluate(self, cost: str, widths: Widths) -> float:
        """One cost for widths in ``structure.prunable`` order."""
        ...

    def pinned(self, cost: str, floor: float) -> PinnedCost | None:
        """What of a cost never leaves, and why; None for costs that have no parts."""
        ...


class PriceMeter:
    """Prices of widths as shares of their limits: a budget is kept while no share exceeds 1."""

    def __init__(self, costs: Costs, limits: Mapping[str, float]) -> None:
        self.costs, self.limits = costs, dict(limits)
        self.evaluations = 0
        self._order = list(self.limits)

    def fits(self, widths: Widths) -> bool:
        """Whether every budget is kept; the cost that failed last is evaluated first."""
        for position, cost in enumerate(self._order):
            self.evaluations += 1
            if self.costs.evaluate(cost, widths) > self.limits[cost]:
                self._order.insert(0, self._order.pop(position))
                return False
        return True

    def price(self, widths: Widths) -> NDArray[np.float64]:
        """Cost over limit, per limited cost."""
        self.evaluations += len(self.limits)
        shares = [self.costs.evaluate(cost, widths) / limit for cost, limit in self.limits.items()]
        return np.array(shares, dtype=np.float64)
