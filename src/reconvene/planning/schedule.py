"""``rc.prune_iteratively``: cut a trained network in steps, tuned in between; and several plans as one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from reconvene.costs import Budget
from reconvene.costs.registry import cost_named
from reconvene.criteria.base import Loss
from reconvene.errors import PlanError
from reconvene.planning.arguments import PLAN_CHECKS, check_steps
from reconvene.planning.limits import LayerLimits
from reconvene.planning.options import Options
from reconvene.planning.pruning import plan_by, prune_by
from reconvene.planning.session import Data
from reconvene.planning.target import DeviceLike, Target
from reconvene.structure import Slot, analyse
from reconvene.structure.replay import replay
from reconvene.surgery import Accounting, Plan, PlanRow, make_plan
from reconvene.surgery.ranges import from_text, to_text
from reconvene.utils.arguments import checked
from reconvene.utils.progress import ProgressOption, listening, stage

_Train = Callable[[nn.Module, int], Any]
"""The user's own fine-tuning, in place: of the network after a step, and the number of the step, from 1."""


@checked(**PLAN_CHECKS, steps=check_steps)
def prune_iteratively(
    model: nn.Module,
    example_inputs: Any,
    budget: Budget,
    steps: int = 5,
    train: _Train | None = None,
    data: Data | None = None,
    criterion: str | None = None,
    seed: int = 0,
    *,
    rectify: str | None = None,
    keep: Sequence[str] = (),
    widths: Mapping[str, float] = MappingProxyType({}),
    evaluator: str | None = None,
    loss: Loss | None = None,
    round_to: int | None = None,
    device: DeviceLike | None = None,
    size_of: Sequence[str] = (),
    memory_of: str | None = None,
    precision: str | None = None,
    target: str | Path | None = None,
    examples: int | None = None,
    verify: bool = True,
    progress: ProgressOption = None,
) -> nn.Module:
    """Prune a trained network in ``steps``, each cut followed by a repair and by the user's own fine-tuning.

    Every step leaves the same share of what is there: after step ``i`` each cost is at most
    ``dense * (limit / dense) ** (i / steps)``. Criteria look at the network again before every step.

    Args:
        model: the trained network, only read.
        example_inputs: as for ``groups``.
        budget: what the last step keeps.
        steps: how many cuts.
        train: ``train(network, step)`` tunes the network after step 1, 2, ... in place; without it nothing is tuned.
        data: as for ``rc.prune``; every step reads them.
        criterion: as for ``rc.prune`` with ``trained=True``, and so are ``rectify`` and everything that follows it.
        seed: the same seed gives the same plans.
        widths: as for ``rc.plan``, kept by the last step; the steps before it come near to them.

    Returns:
        the smaller network. Its ``reconvene_plan`` is one plan of ``model``, so it can be saved as any other.

    Raises:
        BudgetError: the budget cannot be kept; it is raised before the first step.
        Other errors are those of ``rc.plan`` and ``rc.rectify``.

    >>> import torch
    >>> import reconvene as rc
    >>> from torch import nn
    >>> model = nn.Sequential(nn.Conv2d(3, 32, 3), nn.ReLU(), nn.Conv2d(32, 32, 3), nn.ReLU(), nn.Conv2d(32, 8, 3))
    >>> x = torch.randn(1, 3, 16, 16)
    >>> def tune(network, step):
    ...     pass  # an epoch of your own training
    >>> small = rc.prune_iteratively(model, x, rc.Budget(params="4x"), steps=2, train=tune)
    >>> small.reconvene_plan.costs["pruned"]["params"] <= small.reconvene_plan.costs["dense"]["params"] / 4
    True
    """
    options = Options(
        criterion=criterion,
        data=list(data) if isinstance(data, Iterator) else data,
        seed=seed,
        trained=True,
        limits=LayerLimits(tuple(keep), dict(widths)),
        evaluator=evaluator,
        loss=loss,
        round_to=round_to,
        target=Target(device, tuple(size_of), memory_of, precision, target),
        examples=examples,
        verify=verify,
    )
    with listening(progress), stage("pruning in steps", steps) as work:
        schedule = Schedule.of(model, example_inputs, budget, options, steps)
        network: nn.Module = model
        for number in range(1, steps + 1):
            network = schedule.cut(network, number, rectify=rectify)
            if train is not None:
                with stage("tuning"):
                    train(network, number)
            work.advance()
    return network


@dataclass(frozen=True, eq=False)
class Schedule:
    """Steps of one pruning: ``goal`` is the plan of the whole budget at once, which says what all of it comes to."""

    model: nn.Module
    example_inputs: Any
    budget: Budget
    options: Options
    steps: int
    goal: Plan

    @classmethod
    def of(cls, model: nn.Module, example_inputs: Any, budget: Budget, options: Options, steps: int) -> Schedule:
        """The schedule of a budget. Raises BudgetError where it cannot be kept."""
        return cls(model, example_inputs, budget, options, steps, plan_by(model, example_inputs, budget, options))

    def budget_of(self, step: int) -> Budget:
        """What step ``step`` keeps, in absolute amounts; a cost that is below its limit already may stay there."""
        amounts = {}
        for cost in self.budget.asked:
            dense, limit = self.goal.costs["dense"][cost], self.goal.limits[cost]
            on_the_way = dense * min(limit / dense, 1.0) ** (step / self.steps)
            amounts[cost] = _amount(cost, limit if step == self.steps else max(on_the_way, limit))
        return Budget(**amounts)

    def limits_of(self, step: int) -> LayerLimits:
        """The layers to keep, and how many channels others have by this step."""
        limits = self.options.limits
        if not limits.widths:
            return limits
        counts = limits.counts(self.model, limits.hold(self.model, analyse(self.model, self.example_inputs)))
        share = step / self.steps
        return LayerLimits(
            limits.keep,
            {name: max(round(whole * (width / whole) ** share), 1) for name, (whole, width) in counts.items()},
        )

    def cut(self, network: nn.Module, step: int, *, rectify: str | None) -> nn.Module:
        """The network of the next step, repaired and not tuned yet; its plan is one of the dense model."""
        budget = self.budget_of(step)
        options = replace(self.options, limits=self.limits_of(step))
        with stage(f"step {step} of {self.steps}: pruning to {budget}"):
            small, plan, _ = prune_by(network, self.example_inputs, budget, options, rectify=rectify)
        if step > 1:
            plan = compose_plans(self.model, self.example_inputs, network.reconvene_plan, plan)  # type: ignore[arg-type]
        if step == self.steps:
            plan = replace(plan, budget=dict(self.budget.asked))
        object.__setattr__(small, "reconvene_plan", plan)
        return small


def _amount(cost: str, value: float) -> int | str:
    """An absolute amount as budgets read it."""
    unit = cost_named(cost).unit
    if unit.bare:
        return int(value)
    base = next(name for name, factor in unit.factors.items() if factor == 1)
    return f"{value:.9g}{base}"


def compose_plans(model: nn.Module, example_inputs: Any, first: Plan, second: Plan) -> Plan:
    """One plan of ``model`` that does what ``second`` does to the network that ``first`` makes of it.

    Args:
        model: the dense model that ``first`` is a plan of; only read.
        example_inputs: as for ``groups``.
        first: the earlier plan.
        second: a plan of ``first.apply(model)``.

    Raises:
        PlanError: ``second`` is a plan of another network, or takes apart what the dense network ties together.
    """
    if differing := _differing_shape(first, second):
        raise PlanError(f"the second plan is not of the network that the first makes: {differing}")
    structure = analyse(model, example_inputs)
    slices = _composed_slices(first, second)
    keep = [_kept(group.slots, group.width, slices) for group in structure.prunable]
    reasons = {row.name: row for row in (*first.rows, *second.rows)}
    rows = [
        PlanRow(
            group.name,
            group.width,
            len(kept),
            to_text(kept),
            why=reasons[group.name].why if group.name in reasons else "",
        )
        for group, kept in zip(structure.prunable, keep, strict=True)
    ]
    plan = make_plan(
        model,
        structure,
        keep,
        rows,
        scalars=replay(model, example_inputs, structure, keep).scalars,
        provenance=second.provenance,
        accounting=Accounting(
            {"dense": first.costs.get("dense", {}), "pruned": second.costs.get("pruned", {})},
            spread=first.spread,
            examples=second.examples,
        ),
        notes=list(dict.fromkeys([*first.notes, *second.notes])),
    )
    if plan.slices != slices:
        wrong = next(name for name in {**slices, **plan.slices} if plan.slices.get(name) != slices.get(name))
        raise PlanError(f"the second plan takes apart what the dense network ties together, first in {wrong}")
    return plan


def _differing_shape(first: Plan, second: Plan) -> str:
    for name, shape in first.shapes.items():
        kept = [
            len(from_text(first.slices[name][dim])) if dim in first.slices.get(name, {}) else size
            for dim, size in enumerate(shape)
        ]
        if second.shapes.get(name) != kept:
            return f"{name} has shape {second.shapes.get(name)} instead of {kept}"
    return ""


def _composed_slices(first: Plan, second: Plan) -> dict[str, dict[int, str]]:
    """What both plans leave of every parameter, in positions of the dense one."""
    slices: dict[str, dict[int, str]] = {}
    for name, shape in first.shapes.items():
        for dim in range(len(shape)):
            one, two = first.slices.get(name, {}).get(dim), second.slices.get(name, {}).get(dim)
            if one is None and two is None:
                continue
            positions = np.arange(shape[dim], dtype=np.int64) if one is None else from_text(one)
            slices.setdefault(name, {})[dim] = to_text(positions if two is None else positions[from_text(two)])
    return slices


def _kept(slots: Sequence[Slot], width: int, slices: Mapping[str, Mapping[int, str]]) -> NDArray[np.int64]:
    """The channels of a group all of whose positions stay."""
    stays = np.ones(width, dtype=np.bool_)
    for slot in slots:
        text = slices.get(slot.parameter, {}).get(slot.dim)
        if text is not None:
            stays &= np.isin(slot.index, from_text(text)).all(axis=1)
    return np.flatnonzero(stays).astype(np.int64)
