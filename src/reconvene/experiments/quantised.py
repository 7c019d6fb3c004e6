"""Weights of few bits: uniform bits, pruning and then uniform bits, both together in seconds, and by search.

All arms begin with the same trained network, and have as many epochs after it (``tune``), in which weights and what
layers read are rounded. The search spends all but the last of them on itself; its own fine-tuning is among them.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

from torch import nn

from reconvene.costs import Budget
from reconvene.experiments.context import PreparedRun, Setting
from reconvene.experiments.options import epochs_before_tuning
from reconvene.experiments.trained import train_dense, training_samples
from reconvene.planning.options import Options
from reconvene.planning.pruning import prune_by
from reconvene.planning.search.search import search
from reconvene.structure import analyse
from reconvene.surgery import Plan
from reconvene.training.epoch_batches import TrainingBatches
from reconvene.training.frozen_bits import FrozenBits

UNIFORM_OPTIONS = {"bits": 8, "tune": 8}
JOINT_OPTIONS = {"tune": 8}
LEAST_SEARCH = 3
"""Epochs of a search with its tuning."""


def uniform_bits(setting: Setting) -> PreparedRun:
    """Every channel stays, with weights of ``bits``; no budget is asked."""
    return _in_seconds(setting, Budget(size=1.0), (int(setting.options["bits"]),))


def pruned_then_quantised(setting: Setting) -> PreparedRun:
    """Channels leave until the budget is kept with ``bits`` in every channel that stays."""
    return _in_seconds(setting, setting.asked, (0, int(setting.options["bits"])))


def joint_bits(setting: Setting) -> PreparedRun:
    """Widths and bits together, in seconds: what ``reconvene prune --bits`` does."""
    return _in_seconds(setting, setting.asked, (0, 2, 4, 8))


def searched_bits(setting: Setting) -> PreparedRun:
    """Widths and bits by ``rc.search``."""
    dense, tune, earlier = _start(setting, least=LEAST_SEARCH)
    began = time.perf_counter()
    small = search(
        dense,
        setting.inputs,
        setting.asked,
        train=TrainingBatches(setting.dataset, replace(setting.config, seed=setting.seed)),
        epochs=tune - 1,
        loss=setting.dataset.task.loss,
        seed=setting.seed,
        checkpoint=setting.folder / "search",
    )
    plan: Plan = small.reconvene_plan  # type: ignore[assignment]
    return _prepared(setting, small, plan, {"search": time.perf_counter() - began}, 1, earlier)


def _in_seconds(setting: Setting, budget: Budget, bits: tuple[int, ...]) -> PreparedRun:
    dense, tune, earlier = _start(setting)
    options = Options(
        data=training_samples(setting), seed=setting.seed, trained=True, bits=bits, loss=setting.dataset.task.loss
    )
    pruned = prune_by(dense, setting.inputs, budget, options)
    return _prepared(setting, pruned.model, pruned.plan, dict(pruned.plan.timings), tune, earlier)


def _start(setting: Setting, *, least: int = 1) -> tuple[nn.Module, int, dict[str, float]]:
    """The trained network, the epochs that are left, and what it took."""
    first = epochs_before_tuning(setting.options, setting.epochs, least=least)
    tune = setting.epochs - first
    dense, result = train_dense(setting, first)
    macs = float(setting.cost_model(analyse(setting.model, setting.inputs, trial=False)).dense["macs"])
    return dense, tune, {"seconds": result.seconds, "epochs": float(first), "macs": macs}


def _prepared(
    setting: Setting, small: nn.Module, plan: Plan, seconds: dict[str, float], epochs: int, earlier: dict[str, float]
) -> PreparedRun:
    assert plan.bits is not None, "bits were asked for"
    facts: dict[str, Any] = {"packed": plan.costs["pruned"]["size"], "bits": plan.bits.summary}
    return PreparedRun(
        small,
        seconds,
        epochs,
        plan=plan,
        earlier=earlier,
        facts=facts,
        config=replace(setting.config, seed=setting.seed, tail=min(1.0, epochs / earlier["epochs"])),
        quantising=FrozenBits(plan.bits),
    )
