"""What each step of an iterative pruning keeps: budgets and widths on the way from the dense network to the goal."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from torch import nn

from reconvene.costs import Budget
from reconvene.costs.registry import cost_named
from reconvene.errors import UnknownNameError
from reconvene.planning.limits import LayerLimits
from reconvene.planning.options import Options
from reconvene.planning.pruning import plan_by
from reconvene.structure import Structure, analyse
from reconvene.structure.pruned_sizes import settle

PACES: dict[str, Callable[[float, float], float]] = {
    "geometric": lambda share, progress: share**progress,
    "linear": lambda share, progress: 1 - (1 - share) * progress,
    "cubic": lambda share, progress: share + (1 - share) * (1 - progress) ** 3,
}
"""By name: the share of a cost that stays after ``progress`` (0 to 1) of the steps; after the last it is ``share``."""


@dataclass(frozen=True)
class PruningSchedule:
    """What the steps keep; plain values, so that an interrupted pruning can go on with the same ones.

    Attributes:
        steps: how many there are.
        pace: a name in ``PACES``.
        asked: the budget as it is written.
        dense: by cost, what the dense network needs.
        limits: by cost, what the last step keeps.
        widths: by group, the widths that the steps leave, where a width was asked for.
    """

    steps: int
    pace: str
    asked: Mapping[str, Any]
    dense: Mapping[str, float]
    limits: Mapping[str, float]
    widths: Mapping[str, list[int]]

    @classmethod
    def of(
        cls,
        model: nn.Module,
        example_inputs: Any,
        budget: Budget,
        options: Options,
        *,
        steps: int,
        pace: str = "geometric",
    ) -> PruningSchedule:
        """The schedule of a budget.

        The whole budget is planned once, which says what its limits come to, and that it can be kept.

        Raises:
            BudgetError: it cannot.
            UnknownNameError: there is no such pace.
        """
        if pace not in PACES:
            raise UnknownNameError("pace of steps", pace, PACES)
        goal = plan_by(model, example_inputs, budget, options)
        widths: dict[str, list[int]] = {}
        if options.limits.widths:
            structure = options.limits.hold(model, analyse(model, example_inputs))
            widths = _widths_of_steps(structure, options.limits.fixed(model, structure), steps, PACES[pace])
        asked = dict(budget.asked)
        dense = {cost: goal.costs["dense"][cost] for cost in asked}
        return cls(steps, pace, asked, dense, {cost: goal.limits[cost] for cost in asked}, widths)

    def budget(self, step: int) -> Budget:
        """The budget of a step, from 1, in absolute amounts; a cost that is below its limit already may stay there."""
        amounts = {}
        for cost, limit in self.limits.items():
            share = PACES[self.pace](min(limit / self.dense[cost], 1.0), step / self.steps)
            amounts[cost] = amount_text(cost, limit if step == self.steps else max(self.dense[cost] * share, limit))
        return Budget(**amounts)

    def options(self, options: Options, step: int) -> Options:
        """The options of a step: widths that were asked for are approached as costs are."""
        if not self.widths:
            return options
        groups = {name: widths[step - 1] for name, widths in self.widths.items()}
        return replace(options, limits=LayerLimits(options.limits.keep, groups=groups))

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> PruningSchedule:
        """Undo ``to_dict``, after JSON."""
        widths = {name: [int(width) for width in of_steps] for name, of_steps in values["widths"].items()}
        return cls(**{**values, "widths": widths})


def _widths_of_steps(
    structure: Structure, last: Mapping[int, int], steps: int, pace: Callable[[float, float], float]
) -> dict[str, list[int]]:
    """The widths of groups (their places in ``structure.prunable``) that steps leave on the way to the last ones.

    Where pieces of a tensor must stay equal, such as heads of attention, a step leaves the next larger width that fits.
    """
    dense = structure.widths
    result: dict[str, list[int]] = {structure.prunable[g].name: [] for g in last}
    for step in range(1, steps + 1):
        widths = dense.copy()
        for g, width in last.items():
            widths[g] = max(round(int(dense[g]) * pace(width / int(dense[g]), step / steps)), width, 1)
        if step < steps:
            widths = settle(structure.balances, widths, dense)
        for g in last:
            result[structure.prunable[g].name].append(int(widths[g]))
    return result


def amount_text(cost: str, value: float) -> int | str:
    """An absolute amount as budgets read it."""
    unit = cost_named(cost).unit
    if unit.bare:
        return int(value)
    base = next(name for name, factor in unit.factors.items() if factor == 1)
    return f"{value:.9g}{base}"
