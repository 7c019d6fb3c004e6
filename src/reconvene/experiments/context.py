"""What every arm of a comparison starts from, and what it hands to training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from reconvene import rectifier
from reconvene.costs import Budget, Cost
from reconvene.costs.model import CostModel
from reconvene.criteria.registry import criterion as criterion_named
from reconvene.data import Dataset, calibration
from reconvene.planning.assemble import timed
from reconvene.planning.session import Data
from reconvene.structure import Structure
from reconvene.surgery import Plan
from reconvene.training import Distillation, TrainConfig
from reconvene.training.quantising import Quantising

EVERYWHERE = "everywhere"
SHARED = "shared"
"""Folder beside those of runs for what several of them need."""


@dataclass(frozen=True)
class Setting:
    """The same for all arms of one comparison: the untrained model, the data, the recipe; and the arm's own options.

    ``folder`` is where an arm may keep what it would not like to compute again after an interruption. ``costs``:
    the cost that answers to each name, the same for all arms; by default those that every plan tells. ``source``: how
    the model is built, which tells models of the same shapes apart.
    """

    model: nn.Module
    inputs: Tensor
    dataset: Dataset
    budget: Budget | None
    options: Mapping[str, Any]
    seed: int
    epochs: int
    config: TrainConfig
    round_to: int
    folder: Path
    costs: Mapping[str, Cost] | None = None
    source: Mapping[str, Any] = field(default_factory=dict)

    @property
    def asked(self) -> Budget:
        """The budget of an arm that has one."""
        assert self.budget is not None, "the configuration was checked"
        return self.budget

    def cost_model(self, structure: Structure) -> CostModel:
        """What a network of this structure costs."""
        return CostModel(structure, self.costs)

    def samples(self, criterion: str) -> Data | None:
        """A few training images of every class, for a criterion that needs data. Raises UnknownNameError."""
        if criterion_named(criterion).needs != "data":
            return None
        return calibration(self.dataset, seed=self.seed)


@dataclass
class PreparedRun:
    """A network ready for training, and what it took to get there.

    ``seconds``: wall time by step, all of it before training. ``epochs``: of training still to do, of ``setting``'s.
    ``masked``: whether masks hold some weights at zero. ``earlier``: seconds, epochs and MACs of one example of
    training that was part of the arm itself (pruning after training); ``facts``: anything else worth a column.
    ``config``, ``distillation`` and ``quantising``: of that training, where they are not those of all arms.
    """

    model: nn.Module
    seconds: dict[str, float]
    epochs: int
    plan: Plan | None = None
    masked: bool = False
    earlier: dict[str, float] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    config: TrainConfig | None = None
    distillation: Distillation | None = None
    quantising: Quantising | None = None


def apply_plan(setting: Setting, plan: Plan, *, rectify: str, data: Data | None = None) -> PreparedRun:
    """Surgery and rectification, the same for every arm that chooses widths.

    ``rectify`` is one of the rectifier's ways, or ``everywhere``: ``reinit`` of resilient layers too. ``data`` is for
    the ways of trained networks.
    """
    method, everywhere = ("reinit", True) if rectify == EVERYWHERE else (rectify, False)
    seconds = dict(plan.timings)
    with timed(seconds, "surgery"):
        small = plan.apply(setting.model)
    with timed(seconds, "rectify"):
        rectifier.rectify(
            small,
            plan,
            setting.inputs,
            method,
            seed=setting.seed,
            everywhere=everywhere,
            model=setting.model,
            data=data,
        )
    return PreparedRun(small, seconds, setting.epochs, plan=plan)
