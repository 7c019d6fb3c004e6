"""The one loop of planning: predict, allocate, measure, move the limit that is aimed at, and plan again.

Some costs are exact functions of widths: a plan that keeps their limits is right at once. Of others the widths give a
prediction only, and the network itself is measured: the file is exported and weighed, the network is timed. Then the
solver is given another limit, an aim in the units of the prediction, until the measured cost keeps its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from math import inf

from torch import nn

from reconvene import rectifier
from reconvene.costs import COSTS, Budget, Cost, read_budget
from reconvene.costs.model import CostModel
from reconvene.errors import BudgetError
from reconvene.planning.assemble import timed
from reconvene.planning.session import Plans
from reconvene.surgery import Plan
from reconvene.utils.notes import Note
from reconvene.utils.progress import note, stage

# Networks that are measured at most.
_ATTEMPTS = 8
# Two aims that are nearer than this lead to the same widths, or to neighbours.
_CLOSE = 0.995
# A measured budget of which less is used gets a remark.
_WELL_USED = 0.9


def plan_within(planner: Plans, budget: Budget, costs: Mapping[str, Cost], *, round_to: int, refine: bool) -> Plan:
    """The plan that keeps a budget, by measurement where a cost of the budget needs one; the widest that was tried.

    Args:
        planner: makes plans of one model.
        budget: what is asked.
        costs: the cost that answers to each name, those of the budget at least.
        round_to: as for ``rc.plan``.
        refine: whether steps may become finer where ``round_to`` leaves much of the budget unused.

    Raises:
        BudgetError: the budget cannot be kept; ``floor`` has measured amounts where networks were measured.
    """
    search = _Search(planner, budget, costs, round_to, refine)
    plan = search.best_plan() if search.aims else search.plan()
    model = search.cost_model()
    dense, pruned, conditions = dict(plan.costs["dense"]), dict(plan.costs["pruned"]), dict(plan.conditions)
    for name, cost in costs.items():
        if model.has_only_lower_bound(name) and name not in search.measured_costs:
            dense[name] = model.exact(name, planner.prepared.structure.widths)
            pruned[name] = model.exact(name, plan.widths)
        condition = cost.measured_condition if name in search.measured_costs else cost.condition
        if cost is not COSTS.get(name) and condition:  # else it holds for every plan
            conditions[name] = condition
    remarks = [Note(cost.remark, "cost") for cost in costs.values() if cost.remark]
    return replace(plan, costs={"dense": dense, "pruned": pruned}, conditions=conditions, notes=[*plan.notes, *remarks])


class _Aim:
    """One cost that is measured: its limit, and the limit in units of the prediction that the solver is given."""

    def __init__(self, cost: Cost, limit: float, dense: float, predicted: float) -> None:
        self.cost, self.limit, self.dense = cost, limit, dense
        self._least = 1e-9 * predicted
        self._latest = predicted, dense
        self._kept, self._missed = 0.0, inf
        if not cost.measured:
            first = limit
        else:
            first = limit * predicted / dense
            if cost.shifts:  # what is more than predicted stays as widths shrink, what is less shrinks with them
                first = min(first, limit + predicted - dense)
        self.target = max(first if dense <= limit else first * cost.margin, self._least)

    def keeps(self, value: float) -> bool:
        return value <= self.limit

    def is_used(self, value: float) -> bool:
        """Whether so much of the limit is used that no wider network is looked for."""
        return value >= self.cost.enough * self.limit

    def learn(self, value: float, predicted: float) -> None:
        """Note whether a network of this predicted cost keeps the limit.

        Any target from the prediction on may lead to the same network again, so it is no better than that.
        """
        if self.keeps(value):
            self._kept = max(self._kept, predicted)
        else:
            self._missed = min(self._missed, predicted)

    @property
    def is_settled(self) -> bool:
        """Whether no target is left between one that kept the limit and one that did not."""
        return self._kept >= _CLOSE * self._missed

    def move(self, value: float, predicted: float) -> None:
        """The next target: where the measured value would meet the limit, between what kept it and what did not."""
        goal = self.cost.margin * self.limit
        target = (
            predicted + (goal - value) / self._slope(value, predicted)
            if self.cost.shifts
            else (predicted * goal / value)
        )
        self._latest = predicted, value
        if not self._kept < target < self._missed:
            target = (self._kept + self._missed) / 2 if self._kept else self._missed * min(self.cost.margin, _CLOSE)
        self.target = max(target, self._least)

    def _slope(self, value: float, predicted: float) -> float:
        """By how much the true value follows the prediction, from the two latest networks; 1 where they do not say.

        Weights in int8 take a quarter of the bytes that are predicted, and parts of a file do not depend on widths.
        """
        before, value_before = self._latest
        slope = (value - value_before) / (predicted - before) if predicted != before else 1.0
        return slope if slope > 0 else 1.0


class _Search:
    """Plans for one budget, and what was measured of them."""

    def __init__(
        self,
        planner: Plans,
        budget: Budget,
        costs: Mapping[str, Cost],
        round_to: int,
        refine: bool,
    ) -> None:
        self._planner, self._budget, self._costs = planner, budget, costs
        self._round_to, self._refine = round_to, refine
        self._measured: dict[tuple[int, ...], dict[str, float]] = {}
        self._seconds: dict[str, float] = {}
        model = self.cost_model()
        names = [name for name in budget.asked if costs[name].measured or model.has_only_lower_bound(name)]
        self.aims = {name: self._first_aim(name, model) for name in names}
        dense_widths = tuple(planner.prepared.structure.widths.tolist())
        self._measured[dense_widths] = {name: aim.dense for name, aim in self.aims.items()}

    @property
    def measured_costs(self) -> list[str]:
        """Costs of the budget that a measurement decides."""
        return [name for name, aim in self.aims.items() if aim.cost.measured]

    def cost_model(self) -> CostModel:
        """The costs of the structure as it is now: a trial may have pinned more of it."""
        return self._planner.cost_model(self._costs)

    def plan(self) -> Plan:
        """The plan for the present aims. Raises BudgetError."""
        limits = {name: aim.target for name, aim in self.aims.items()}
        return self._planner.plan(
            self._budget, costs=self._costs, limits=limits, round_to=self._round_to, refine=self._refine
        )

    def best_plan(self) -> Plan:
        """The plan that uses most of its limits among those whose measured costs keep them. Raises BudgetError."""
        best: tuple[float, Plan, dict[str, float]] | None = None
        refusal: BudgetError | None = None
        for _ in range(2 * _ATTEMPTS):
            try:
                plan = self.plan()
            except BudgetError as error:
                if best is not None:
                    break
                if refusal is not None or not self._aim_at_floor(error):
                    raise
                refusal = error
                continue
            known = tuple(plan.widths.tolist()) in self._measured
            if not known and len(self._measured) >= _ATTEMPTS:
                break
            values = self._values(plan)
            kept = all(name in values and aim.keeps(values[name]) for name, aim in self.aims.items())
            if kept:
                used = max(values[name] / aim.limit for name, aim in self.aims.items())
                best = (used, plan, values) if best is None or used > best[0] else best
            if self._is_over(plan, values, kept=kept, known=known) or (refusal is not None and not kept):
                break
        if best is None:
            raise self._refused(refusal)
        return self._with_measurements(best[1], best[2])

    def _first_aim(self, name: str, model: CostModel) -> _Aim:
        cost, planner = self._costs[name], self._planner
        widths = planner.prepared.structure.widths
        predicted = model.evaluate(name, widths)
        dense = model.exact(name, widths)
        if cost.measured and not cost.dense_is_exact:
            label = f"measuring the {cost.label.lower()} of the dense network"
            with timed(self._seconds, "measure"), stage(label):
                dense = self._measure(cost, planner.model)
        return _Aim(cost, read_budget(name, self._budget.asked[name]).of(dense), dense, predicted)

    def _aim_at_floor(self, error: BudgetError) -> bool:
        """Aim at the least that was predicted, since what it measures may keep the limit; whether that is possible."""
        higher = {name: error.floor.get(name, 0.0) for name, aim in self.aims.items() if aim.cost.measured}
        higher = {name: floor for name, floor in higher.items() if floor > self.aims[name].target}
        for name, floor in higher.items():
            self.aims[name].target = floor
        return bool(higher)

    def _values(self, plan: Plan) -> dict[str, float]:
        """What the network of a plan measures, up to the first cost that does not keep its limit."""
        values = self._measured.setdefault(tuple(plan.widths.tolist()), {})
        small: nn.Module | None = None
        healthy = False
        for name, aim in self.aims.items():
            if name not in values:
                if aim.cost.measured:
                    with (
                        timed(self._seconds, "measure"),
                        stage(f"measuring the {aim.cost.label.lower()} of a candidate"),
                    ):
                        small = plan.apply(self._planner.model) if small is None else small
                        if aim.cost.depends_on_values and not healthy:
                            self._make_healthy(small, plan)
                            healthy = True
                        values[name] = self._measure(aim.cost, small)
                else:
                    values[name] = self.cost_model().exact(name, plan.widths)
                unit = aim.cost.unit
                note(f"{name}: {unit.phrase(values[name])} of at most {unit.phrase(aim.limit)}")
            if not aim.keeps(values[name]):
                break
        return {name: values[name] for name in self.aims if name in values}

    def _measure(self, cost: Cost, model: nn.Module) -> float:
        value = cost.measure(model, self._planner.example_inputs)
        assert value is not None, f"{cost.name} is a measured cost"
        return value

    def _make_healthy(self, small: nn.Module, plan: Plan) -> None:
        """Give the network values as it will have them: those that die out could be faster, or slower."""
        planner = self._planner
        rectifier.rectify(small, plan, planner.example_inputs, how="reinit", seed=planner.seed)

    def _is_over(self, plan: Plan, values: dict[str, float], *, kept: bool, known: bool) -> bool:
        """Whether no further plan would help; else the aims have moved."""
        is_dense = all(row.width == row.dense for row in plan.rows)
        if kept and (is_dense or known or all(aim.is_used(values[name]) for name, aim in self.aims.items())):
            return True  # known: another cost holds the widths back
        moving = [aim for name, aim in self.aims.items() if name in values and (kept or not aim.keeps(values[name]))]
        predicted = {name: self.cost_model().evaluate(name, plan.widths) for name in values}
        for name in values:
            self.aims[name].learn(values[name], predicted[name])
        if any(aim.is_settled for aim in moving):
            return True
        for name, aim in self.aims.items():
            if aim in moving:
                aim.move(values[name], predicted[name])
        return False

    def _with_measurements(self, plan: Plan, values: dict[str, float]) -> Plan:
        for step, seconds in self._seconds.items():
            plan.timings[step] = plan.timings.get(step, 0.0) + seconds
        dense = {**plan.costs["dense"], **{name: aim.dense for name, aim in self.aims.items()}}
        pruned = {**plan.costs["pruned"], **{name: values[name] for name in self.aims}}
        limits = {**plan.limits, **{name: aim.limit for name, aim in self.aims.items()}}
        costs = {"dense": dense, "pruned": pruned}
        return replace(plan, costs=costs, limits=limits, notes=[*plan.notes, *self._unused(plan, values)])

    def _unused(self, plan: Plan, values: dict[str, float]) -> list[Note]:
        """A remark on a measured budget of which much is left over: where nobody says so, it looks like the best."""
        shares = {name: values[name] / aim.limit for name, aim in self.aims.items()}
        if all(row.width == row.dense for row in plan.rows) or max(shares.values(), default=1.0) >= _WELL_USED:
            return []
        name, share = max(shares.items(), key=lambda item: item[1])
        idle = "; if this machine had other work, measure again on an idle one" if name == "latency" else ""
        text = (
            f"only {share:.0%} of the limit on {name} is used: none of {len(self._measured)} measured networks came "
            f"nearer. Try round_to=1 (--round-to 1){idle}"
        )
        return [Note(text, "budget")]

    def _refused(self, refusal: BudgetError | None) -> BudgetError:
        """The error for a budget that no measured network keeps, with the least that was measured as the floor."""
        floor, parts = {}, []
        for name, aim in self.aims.items():
            measured = [values[name] for values in self._measured.values() if name in values]
            if not measured:
                continue
            floor[name], unit = min(measured), aim.cost.unit
            condition = f", {aim.cost.condition}" if aim.cost.condition else ""
            parts.append(
                f"{name} {self._budget.asked[name]} (at most {unit.phrase(aim.limit)}{condition}) "
                + (
                    f"cannot be kept: the smallest of {len(measured)} networks that were measured takes "
                    f"{unit.phrase(floor[name])}"
                    if floor[name] > aim.limit
                    else "can be kept"
                )
            )
        remarks = [cost.remark for cost in self._costs.values() if cost.remark]
        pinned = refusal.pinned if refusal is not None else {}
        text = ". ".join(
            [
                "; ".join(parts),
                *remarks,
                *(str(share) for share in pinned.values() if share.amount),
                "Ask for no less than the floor",
            ]
        )
        return BudgetError(text, {**(refusal.floor if refusal else {}), **floor}, pinned)
