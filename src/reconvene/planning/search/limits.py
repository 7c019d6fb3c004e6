"""Limits of a search whose true value only a measurement tells: latency in the runtime of this machine.

The search counts predictions. It aims at what the plan in seconds is predicted to take, which was measured to keep the
limit, and what it decided is measured again before the network is cut.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from reconvene.costs import Budget, Cost, Network
from reconvene.costs.model import CostModel
from reconvene.planning.assemble import PreparedModel
from reconvene.planning.bits.planner import BitPlanner, corrected_costs, in_int8
from reconvene.planning.feedback import plan_within
from reconvene.planning.options import Options
from reconvene.surgery import Plan


@dataclass(frozen=True)
class SearchLimits:
    """What a search counts and aims at beside the costs that follow from widths and bits.

    Attributes:
        options: those of the search, with the step in width that the device asks for.
        answers: the cost that answers to latency, where the budget has one.
        aims: where that cost is corrected, by a measurement or since a bound stands for it, the limit that the search
            keeps, in units of the prediction; else nothing.
        budget: the limit on latency.
    """

    options: Options
    answers: Mapping[str, Cost]
    aims: Mapping[str, float]
    budget: Budget

    def kept(self, planner: ProjectedSearch) -> Plan:
        """The plan of what was searched, which keeps the limits by measurement. Raises BudgetError."""
        if not self.aims:
            return planner.project({})
        step = self.options.round_to or 1
        return plan_within(planner, self.budget, self.answers, round_to=step, refine=False)


@contextmanager
def search_limits(
    model: nn.Module, example_inputs: Any, budget: Budget, options: Options, known: Mapping[str, float]
) -> Iterator[SearchLimits]:
    """The limits of a search of ``model``; what is needed for measuring is given back at the end.

    ``known``: aims of a search that goes on; without them the plan in seconds is made and measured. Raises BudgetError
    where no measured plan keeps the budget, DeviceError for a profile.
    """
    if "latency" not in budget:
        yield SearchLimits(options, {}, {}, budget)
        return
    planner = BitPlanner(model, example_inputs, budget, options, options.bits or ())
    with in_int8(options.target).costs(planner, budget) as target:
        answers, asked = {"latency": target.costs["latency"]}, Budget(latency=budget.asked["latency"])
        if "latency" not in corrected_costs(planner, budget, target.costs):  # a sum over layers, as of a cost file
            yield SearchLimits(options, answers, {}, asked)
            return
        options = replace(options, round_to=options.round_to or target.round_to)
        aims = dict(known)
        if not aims:
            plan = plan_within(planner, asked, answers, round_to=options.round_to or 1, refine=False)
            aims = {"latency": planner.cost_model(answers).evaluate("latency", plan.widths)}
        yield SearchLimits(options, answers, aims, asked)


@dataclass(eq=False)
class ProjectedSearch:
    """Plans of what a search decided, under any aims; see ``planning.session.Plans``.

    ``model``: the network whose copies are cut and measured; ``project``: the plan within these aims.
    """

    model: nn.Module
    example_inputs: Any
    seed: int
    prepared: PreparedModel
    project: Callable[[Mapping[str, float]], Plan]

    def cost_model(self, costs: Mapping[str, Cost]) -> CostModel:
        """See Plans."""
        return CostModel(self.prepared.structure, costs, Network(self.model, self.example_inputs))

    def plan(
        self, budget: Budget, *, costs: Mapping[str, Cost], limits: Mapping[str, float], round_to: int, refine: bool
    ) -> Plan:
        """See Plans. Steps and costs are those that the search was made with."""
        return self.project(limits)
