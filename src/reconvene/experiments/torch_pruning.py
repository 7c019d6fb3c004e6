"""Torch-Pruning after training: train dense, prune by trained magnitude, go on training; all epochs count.

The epochs of both parts together are those of every other arm. Since the dense part costs more per epoch, this arm is
paid more training than the others, and its row says how much.
"""

from __future__ import annotations

import copy
import importlib
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from torch import nn

from reconvene.costs import Budget
from reconvene.errors import BudgetError, MissingExtraError
from reconvene.experiments.context import PreparedRun, Setting
from reconvene.experiments.options import epochs_of_dense
from reconvene.structure import analyse
from reconvene.training import train_model
from reconvene.utils.module_state import evaluating

TORCH_PRUNING_OPTIONS = {"dense_share": 0.5, "everywhere": True}
HALVINGS = 12


def torch_pruning(setting: Setting) -> PreparedRun:
    """Group magnitude importance of the Torch-Pruning package, one ratio bisected until the budget is kept.

    ``dense_share``: of the epochs, before pruning. ``everywhere``: one ranking for all layers, not the same ratio in
    each. Its widths are not rounded, which lets it come nearer to the budget than the others.
    """
    first = epochs_of_dense("torch_pruning", setting.options, setting.epochs)
    structure = analyse(setting.model, setting.inputs, trial=False)
    costs = setting.cost_model(structure).dense
    result = train_model(
        setting.model,
        setting.dataset,
        epochs=first,
        directory=setting.folder / "dense",
        config=replace(setting.config, seed=setting.seed),
    )
    start = time.perf_counter()
    small, ratio = _smaller(setting, setting.asked, {name: float(value) for name, value in costs.items()})
    seconds = {"torch_pruning": time.perf_counter() - start}
    earlier = {"seconds": result.seconds, "epochs": float(first), "macs": float(costs["macs"])}
    return PreparedRun(small, seconds, setting.epochs - first, earlier=earlier, facts={"ratio": ratio})


def _smaller(setting: Setting, budget: Budget, dense: dict[str, float]) -> tuple[nn.Module, float]:
    """The largest of the networks that the bisection meets within the budget, and its ratio."""
    limits = budget.limits(dense)
    package = _imported()

    def cut(ratio: float) -> nn.Module:
        importance = package.importance.GroupMagnitudeImportance(p=2)
        everywhere = bool(setting.options["everywhere"])
        return cut_copy(setting.model, setting.inputs, importance, ratio, everywhere=everywhere)

    def fits(trial: nn.Module) -> bool:
        costs = setting.cost_model(analyse(trial, setting.inputs, trial=False)).dense
        return all(costs[name] <= limit for name, limit in limits.items())

    best = largest_that_fits(cut, fits)
    if best is None:
        raise BudgetError(f"torch_pruning keeps no budget of {budget}")
    return best


def largest_that_fits(
    cut: Callable[[float], nn.Module], fits: Callable[[nn.Module], bool]
) -> tuple[nn.Module, float] | None:
    """The network of the least ratio that a bisection meets and that fits, and its ratio; None where none does."""
    low, high = 0.0, 1.0
    best: tuple[nn.Module, float] | None = None
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        trial = cut(middle)
        if fits(trial):
            best, high = (trial, middle), middle
        else:
            low = middle
    return best


def cut_copy(
    model: nn.Module,
    inputs: Any,
    importance: Any,
    ratio: float,
    *,
    everywhere: bool = True,
    prepare: Callable[[nn.Module], None] | None = None,
) -> nn.Module:
    """A copy that Torch-Pruning cut once, by one of its importances; ``prepare`` may give the copy gradients."""
    package = _imported()
    model = copy.deepcopy(model)
    last = [module for module in model.modules() if isinstance(module, nn.Linear)]
    with evaluating(model):
        pruner = package.pruner.MagnitudePruner(
            model,
            inputs,
            importance=importance,
            global_pruning=everywhere,
            pruning_ratio=ratio,
            max_pruning_ratio=0.95,
            ignored_layers=last[-1:],  # it would cut the classes
        )
        if prepare is not None:
            prepare(model)
        pruner.step()
    return model


def _imported() -> Any:
    try:
        return importlib.import_module("torch_pruning")
    except ImportError as error:
        raise MissingExtraError("torch-pruning", "bench", "arm 'torch_pruning'") from error
