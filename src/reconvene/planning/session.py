"""Plans of one model for any number of budgets: structure, scores and spread are found once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any, Protocol

from torch import nn

from reconvene import criteria
from reconvene.allocation import allocate
from reconvene.costs import Budget, Cost, Network, listed_costs
from reconvene.costs.model import CostModel
from reconvene.criteria import CHANNEL_CRITERIA, ChannelSaliency, Saliency
from reconvene.criteria.base import Loss
from reconvene.criteria.batches import repeatable
from reconvene.criteria.registry import any_criterion
from reconvene.evaluator import Sensitivity, evaluate_groups
from reconvene.evaluator.evaluators import evaluator_named, usual_evaluator
from reconvene.planning.assemble import Choice, PreparedModel, chosen, plan_from_choice, timed
from reconvene.planning.limits import LayerLimits
from reconvene.planning.simplify import silent_channels
from reconvene.structure import Structure, analyse
from reconvene.surgery import Plan

Data = Iterable[Any]
USUAL_CRITERION = "synflow"
"""The criterion of evaluators that read one, where none is asked for: it needs no data."""


class Plans(Protocol):
    """What makes plans of one model: ``Planner``, and the like for widths and bits together."""

    model: nn.Module
    example_inputs: Any
    seed: int

    @property
    def prepared(self) -> PreparedModel:
        """Its structure and spread."""

    def cost_model(self, costs: Mapping[str, Cost]) -> CostModel:
        """What the network costs at any widths of its present structure."""

    def plan(
        self, budget: Budget, *, costs: Mapping[str, Cost], limits: Mapping[str, float], round_to: int, refine: bool
    ) -> Plan:
        """The plan whose predicted costs keep the limits. Raises BudgetError."""


class Planner:
    """Makes plans of one model; args as for ``reconvene.plan``.

    ``density``: the share of weights down to which layers are followed, for evaluators that read levels; by default
    each budget has its own, which the tightest of its limits decides, and only budgets that agree in it share levels.
    ``verify``: whether each plan is compared with the silenced network. ``limits``: what was asked of single layers.
    """

    def __init__(
        self,
        model: nn.Module,
        example_inputs: Any,
        criterion: str | None = None,
        data: Data | None = None,
        seed: int = 0,
        *,
        evaluator: str | None = None,
        loss: Loss | None = None,
        density: float | None = None,
        verify: bool = True,
        limits: LayerLimits = LayerLimits(),  # noqa: B008  # frozen
    ) -> None:
        data = None if data is None else repeatable(data, seed=seed)  # scores read it, and spreads, and costs
        self.limits = limits
        self.model, self.example_inputs, self.seed, self.verify = model, example_inputs, seed, verify
        self.judge = Judge(model, example_inputs, criterion, evaluator, data, loss, seed)
        self._density = density
        self._prepared: PreparedModel | None = None
        self._cost_model: tuple[Structure, dict[str, Cost], CostModel] | None = None
        self._analysis: dict[str, float] = {}
        """Seconds of the analysis, until a plan tells them."""

    @property
    def prepared(self) -> PreparedModel:
        """Structure and spread, computed when first asked for."""
        if self._prepared is None:
            with timed(self._analysis, "structure"):
                self._prepared = PreparedModel.of(
                    self.model, self.example_inputs, seed=self.seed, limits=self.limits, data=self.judge.data
                )
        return self._prepared

    def cost_model(self, costs: Mapping[str, Cost] | None = None, structure: Structure | None = None) -> CostModel:
        """What the network costs at any widths of its present structure; the latest one is kept."""
        structure = structure or self.prepared.structure
        chosen_costs = dict(listed_costs() if costs is None else costs)
        if self._cost_model is None or self._cost_model[:2] != (structure, chosen_costs):
            network = Network(self.model, self.example_inputs, self.judge.data)
            self._cost_model = structure, chosen_costs, CostModel(structure, chosen_costs, network)
        return self._cost_model[2]

    def plan(
        self,
        budget: Budget,
        *,
        costs: Mapping[str, Cost] | None = None,
        limits: Mapping[str, float] = MappingProxyType({}),
        round_to: int = 8,
        refine: bool = False,
    ) -> Plan:
        """The plan whose predicted costs keep ``budget``; ``feedback`` corrects it where only a measurement tells.

        Args:
            budget: what is asked.
            costs: which cost answers to each name; by default the listed ones.
            limits: absolute limits to aim at instead of those of the budget, by cost.
            round_to: widths become multiples of this where a group is wide enough.
            refine: finer steps than ``round_to`` where its multiples leave much of the budget unused.

        Raises:
            BudgetError: no widths keep the budget.
            StructureError: nothing can be pruned.
            CriterionError: the criterion cannot score this model.
        """

        def choose(structure: Structure, model: CostModel, timings: dict[str, float]) -> Choice:
            absolute = {**budget.limits(model.dense), **limits}
            density = self._density or density_of_interest(absolute, model.dense)
            with timed(timings, "saliency"):
                scores = self.judge.saliency(density, structure)
            with timed(timings, "sensitivity"):
                curves = self.judge.sensitivity(structure, scores, density)
            with timed(timings, "allocation"):
                allocation = allocate(
                    structure,
                    curves,
                    model,
                    budget,
                    limits=absolute,
                    round_to=round_to,
                    refine=refine,
                    fixed=self.limits.fixed(self.model, structure),
                )
            return chosen(curves, allocation, budget, data=scores.note if scores else None)

        plan = plan_from_choice(
            self.model,
            self.example_inputs,
            choose,
            seed=self.seed,
            prepared=self.prepared,
            verified=self.verify,
            cost_model=partial(self.cost_model, costs),
        )
        plan.timings["structure"] += self._analysis.pop("structure", 0.0)
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
        evaluator: str | None,
        data: Data | None,
        loss: Loss | None,
        seed: int,
    ) -> None:
        self.model, self.example_inputs = model, example_inputs
        self.evaluator = usual_evaluator(criterion) if evaluator is None else evaluator
        self.reads = evaluator_named(self.evaluator).reads
        self.criterion = criterion if criterion is not None or not self.reads else USUAL_CRITERION
        if self.criterion is not None:
            any_criterion(self.criterion)
        self.data, self.loss, self.seed = data, loss, seed
        self._scores: dict[float, Saliency] = {}
        self._channel_scores: tuple[Structure, ChannelSaliency] | None = None

    def saliency(self, density: float, structure: Structure | None = None) -> Saliency | ChannelSaliency | None:
        """Scores of all weights, and levels down to this share of them, if the evaluator reads those; computed once.

        Scores of the channels of ``structure`` by criteria of channels. None where no criterion is needed.
        """
        if self.criterion is None:
            return None
        if self.criterion in CHANNEL_CRITERIA:
            return self._of_channels(structure or analyse(self.model, self.example_inputs))
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

    def _of_channels(self, structure: Structure) -> ChannelSaliency:
        if self._channel_scores is None or self._channel_scores[0] is not structure:
            scores = criteria.score_channels(
                self.model,
                structure,
                self.example_inputs,
                str(self.criterion),
                data=self.data,
                loss=self.loss,
                seed=self.seed,
            )
            silent = silent_channels(self.model, structure, self.example_inputs)
            if any(mask.any() for mask in silent):  # a criterion of weights would keep them, and cut living ones
                scores = scores.with_first(silent)
            self._channel_scores = structure, scores
        return self._channel_scores[1]

    def sensitivity(
        self, structure: Structure, scores: Saliency | ChannelSaliency | None, density: float
    ) -> Sensitivity:
        """What every group loses."""
        objective = None
        if "objective" in self.reads and self.criterion is not None and isinstance(scores, Saliency):
            objective = criteria.objective(
                self.model, self.example_inputs, self.criterion, data=self.data, loss=self.loss, seed=self.seed
            )
        return evaluate_groups(structure, scores, evaluator=self.evaluator, objective=objective, density=density)


def density_of_interest(limits: dict[str, float], dense: dict[str, float]) -> float:
    """How far down the criterion should look: somewhat past the tightest budget, since rounding moves groups about."""
    tightest = min((limit / dense[cost] for cost, limit in limits.items() if cost in dense), default=1.0)
    return float(min(0.5, max(tightest / 2, 1e-4)))
