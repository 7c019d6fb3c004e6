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
        """The criterion that was asked for, or the default."""
        if self.criterion is not None:
            return self.criterion
        return default_criterion(trained=self.trained, with_data=self.data is not None)

    @property
    def default_rectification(self) -> str:
        """How the small network is rectified where nothing else is asked."""
        return default_rectification(trained=self.trained, with_data=self.data is not None)


def default_criterion(*, trained: bool, with_data: bool) -> str | None:
    """The criterion of a trained network; None for an untrained one, whose evaluator decides whether it needs one."""
    if not trained:
        return None
    return "taylor" if with_data else "group_l2"


def default_rectification(*, trained: bool, with_data: bool) -> str:
    """A trained network keeps its weights, and data fit them to the dense network; an untrained one is drawn anew."""
    if not trained:
        return "reinit"
    return "reconstruct" if with_data else "keep"
