"""How to plan, as one object: what ``rc.plan``, ``rc.prune``, the workflow and the fleet share."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from torch import nn

from reconvene.criteria.base import Loss
from reconvene.criteria.batches import repeatable
from reconvene.planning.limits import LayerLimits
from reconvene.planning.session import Data, Planner
from reconvene.planning.target import Target


@dataclass(frozen=True, kw_only=True)
class Options:
    """How to plan, but for the model and the budget; each as for ``plan``."""

    criterion: str | None = None
    data: Data | None = None
    seed: int = 0
    trained: bool = False
    limits: LayerLimits = field(default_factory=LayerLimits)
    evaluator: str | None = None
    loss: Loss | None = None
    round_to: int | None = None
    target: Target = field(default_factory=Target)
    bits: tuple[int, ...] | None = None
    activation_bits: tuple[int, ...] = (8,)
    examples: int | None = None
    verify: bool = True

    def planner(self, model: nn.Module, example_inputs: Any, *, density: float | None = None) -> Planner:
        """A planner for any number of budgets of one model. ``density``: as for ``Planner``."""
        return Planner(
            model,
            example_inputs,
            self.chosen_criterion,
            self.data,
            self.seed,
            evaluator=self.evaluator,
            loss=self.loss,
            density=density,
            verify=self.verify,
            limits=self.limits,
        )

    def repeatable(self) -> Options:
        """The same, with data that can be read more than once."""
        return self if self.data is None else replace(self, data=repeatable(self.data, seed=self.seed))

    @property
    def chosen_criterion(self) -> str | None:
        """The criterion that was asked for, or that a trained network has by default."""
        if self.criterion is not None or not self.trained:
            return self.criterion
        return "group_l2" if self.data is None else "taylor"

    @property
    def usual_way(self) -> str:
        """How the small network is rectified where nothing else is asked."""
        if not self.trained:
            return "reinit"
        return "keep" if self.data is None else "reconstruct"
