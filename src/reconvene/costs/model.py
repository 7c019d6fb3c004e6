"""All costs of one network at any widths: what the solver asks."""

from __future__ import annotations

from collections.abc import Mapping

from reconvene.costs.base import Cost, Network
from reconvene.costs.registry import listed_costs
from reconvene.errors import PinnedCost, UnknownNameError
from reconvene.structure import Structure
from reconvene.structure.pinned import pinned_cost
from reconvene.utils.arrays import Ints


class CostModel:
    """Evaluates costs of one network for widths in ``structure.prunable`` order.

    Args:
        structure: the structure of the network.
        costs: which costs, by name; by default those that every plan tells.
        network: the network itself, for costs that need more than its structure.
    """

    def __init__(
        self, structure: Structure, costs: Mapping[str, Cost] | None = None, network: Network | None = None
    ) -> None:
        self._structure = structure
        self._costs = dict(listed_costs() if costs is None else costs)
        self._functions = {name: cost.bind(structure, network) for name, cost in self._costs.items()}
        self.names = tuple(self._costs)
        self.dense: dict[str, float] = {name: self.evaluate(name, structure.widths) for name in self.names}

    def evaluate(self, cost: str, widths: Ints) -> float:
        """What the solver keeps below the limit of one cost at these widths; it never falls when a width grows.

        Args:
            cost: one of ``names``.
            widths: kept channels per prunable group, int64 ``[groups]``.

        Raises:
            UnknownNameError: no such cost.
        """
        if cost not in self._functions:
            raise UnknownNameError("cost", cost, self.names)
        return self._functions[cost].lower_bound(widths)

    def exact(self, cost: str, widths: Ints) -> float:
        """One cost at these widths as predicted: a count or bytes (whole numbers), or seconds. Args as above."""
        return self._functions[cost].at(widths)

    def has_only_lower_bound(self, cost: str) -> bool:
        """Whether the solver knows only a lower bound of the cost."""
        return self._functions[cost].exact is not None

    def exact_all(self, widths: Ints) -> dict[str, float]:
        """Every cost at these widths, as predicted."""
        return {name: self.exact(name, widths) for name in self.names}

    def pinned(self, cost: str, floor: float | None = None) -> PinnedCost | None:
        """What of a cost never leaves, and why; None for a cost that has no parts.

        ``floor``: the least that could be reached, if known.
        """
        terms = self._costs[cost].terms(self._structure)
        if terms is None:
            return None
        return pinned_cost(self._structure, terms, cost, plural=self._costs[cost].plural, floor=floor)
