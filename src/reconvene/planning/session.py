"""Plans of one model for any number of budgets: structure, scores and spread are found once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from reconvene import criteria
from reconvene.allocation import Budget, allocate
from reconvene.allocation.costs import CostModel
from reconvene.criteria import Saliency
from reconvene.criteria.registry import criterion as criterion_named
from reconvene.errors import BudgetError
from reconvene.evaluator import Sensitivity, evaluate
from reconvene.evaluator.evaluators import evaluator_named
from reconvene.planning.assemble import Choice, Prepared, chosen, plan_from_choice, timed, with_measured_cost
from reconvene.structure import Structure, analyse
from reconvene.surgery import Plan

Loss = Callable[[Any, Any], Tensor]
Data = Iterable[Any]
Foresee = Callable[[Structure], Callable[[NDArray[np.int64]], float]]
"""From a structure to what predicts one cost at any widths; it never falls when a width grows."""
# Plans that are counted at most.
ATTEMPTS = 4
USUAL_CRITERION = "synflow"
"""The criterion of evaluators that read one, where none is asked for: it needs no data."""


class Planner:
    """Makes plans of one model; args as for ``reconvene.plan``.

    ``density``: the share of weights down to which layers are followed, for evaluators that read levels; by default
    each budget has its own, which the tightest of its limits decides, and only budgets that agree in it share levels.
    ``verify``: whether each plan is compared with the silenced network.
    """

    def __init__(
        self,
        model: nn.Module,
        example_inputs: Any,
        criterion: str | None = None,
        data: Data | None = None,
        seed: int = 0,
        *,
        evaluator: str = "fan_in",
        loss: Loss | None = None,
        density: float | None = None,
        verify: bool = True,
    ) -> None:
        self.model, self.example_inputs, self.seed, self.verify = model, example_inputs, seed, verify
        self.judge = Judge(model, example_inputs, criterion, evaluator, data, loss, seed)
        self._density = density
        self._prepared: Prepared | None = None

    @property
    def prepared(self) -> Prepared:
        """Structure and spread, found when first asked for."""
        if self._prepared is None:
            self._prepared = Prepared.of(self.model, self.example_inputs, seed=self.seed)
        return self._prepared

    def plan(
        self,
        budget: Budget,
        *,
        round_to: int = 8,
        refine: bool = False,
        foresee: Mapping[str, Foresee] = MappingProxyType({}),
    ) -> Plan:
        """The plan that keeps ``budget``; ``foresee`` predicts ``latency``, which budgets on it need, or other costs.

        ``refine``: finer steps than ``round_to`` where its multiples leave much of the budget unused.

        Raises BudgetError, StructureError, CriterionError.
        """
        plan = self._planned(budget, round_to, refine, foresee)
        if budget.peak_memory is None or "peak_memory" in foresee:
            return plan
        limit = tried = plan.limits["peak_memory"]
        for _ in range(ATTEMPTS):
            # Layouts may need a copy at some widths and none at others, which no function of widths tells.
            small = analyse(plan.apply(self.model), self.example_inputs, trial=False)
            counted = CostModel(small).dense["peak_memory"]
            if counted <= limit:
                return with_measured_cost(plan, budget, "peak_memory", limit, pruned=counted)
            tried = int(tried * limit / counted)
            plan = self._planned(replace(budget, peak_memory=tried), round_to, refine, foresee)
        raise BudgetError(
            f"peak_memory {budget.asked['peak_memory']}: every plan that should keep {int(limit):,} bytes makes copies "
            f"that take more, the last {int(counted):,}. Ask for a little more",
            {"peak_memory": counted},
        )

    def _planned(self, budget: Budget, round_to: int, refine: bool, foresee: Mapping[str, Foresee]) -> Plan:

        def choose(structure: Structure, costs: CostModel, timings: dict[str, float]) -> Choice:
            for cost, predict in foresee.items():
                costs.add(cost, predict(structure))
            density = self._density or density_of_interest(budget.limits(costs.dense), costs.dense)
            with timed(timings, "saliency"):
                scores = self.judge.saliency(density)
            with timed(timings, "sensitivity"):
                curves = self.judge.sensitivity(structure, scores, density)
            with timed(timings, "allocation"):
                allocation = allocate(structure, curves, costs, budget, round_to=round_to, refine=refine)
            return chosen(curves, allocation, budget, data=scores.note if scores else None)

        timings: dict[str, float] = {}
        with timed(timings, "structure"):
            prepared = self.prepared
        plan = plan_from_choice(
            self.model, self.example_inputs, choose, seed=self.seed, prepared=prepared, verified=self.verify
        )
        plan.timings["structure"] += timings["structure"]
        return plan


class Judge:
    """Criterion and evaluator with everything they need, so that a plan can ask again after a repair.

    Nothing is scored that nobody reads: without a criterion only where the evaluator reads one (``USUAL_CRITERION``
    then), and levels only for evaluators that read them. Raises UnknownNameError.
    """

    def __init__(
        self,
        model: nn.Module,
        example_inputs: Any,
        criterion: str | None,
        evaluator: str,
        data: Data | None,
        loss: Loss | None,
        seed: int,
    ) -> None:
        self.model, self.example_inputs = model, example_inputs
        self.reads = evaluator_named(evaluator).reads
        self.criterion = criterion if criterion is not None or not self.reads else USUAL_CRITERION
        if self.criterion is not None:
            criterion_named(self.criterion)
        self.evaluator = evaluator
        self.data, self.loss, self.seed = data, loss, seed
        self._scores: dict[float, Saliency] = {}

    def saliency(self, density: float) -> Saliency | None:
        """Scores of all weights, and levels down to this share of them, if the evaluator reads those; computed once.

        None where no criterion is needed.
        """
        if self.criterion is None:
            return None
        levels = "levels" in self.reads
        key = density if levels else 1.0
        if key not in self._scores:
            self._scores[key] = criteria.score(
                self.model,
                self.example_inputs,
                self.criterion,
                data=self.data,
                loss=self.loss,
                seed=self.seed,
                density=density,
                levels=levels,
            )
        return self._scores[key]

    def sensitivity(self, structure: Structure, scores: Saliency | None, density: float) -> Sensitivity:
        """What every group loses."""
        objective = None
        if "objective" in self.reads and self.criterion is not None:
            objective = criteria.objective(
                self.model, self.example_inputs, self.criterion, data=self.data, loss=self.loss, seed=self.seed
            )
        return evaluate(structure, scores, evaluator=self.evaluator, objective=objective, density=density)


def density_of_interest(limits: dict[str, float], dense: dict[str, float]) -> float:
    """How far down the criterion should look: somewhat past the tightest budget, since rounding moves groups about."""
    tightest = min((limit / dense[cost] for cost, limit in limits.items() if cost in dense), default=1.0)
    return float(min(0.5, max(tightest / 2, 1e-4)))
