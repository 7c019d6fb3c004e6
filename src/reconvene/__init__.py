"""Reconvene: make an untrained PyTorch network small enough for its device, in seconds, before training is paid for.

The public names below are loaded when first used, so that ``reconvene --help`` never waits for torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from reconvene._version import __version__

if TYPE_CHECKING:
    from reconvene.api import groups, masks, rectify, sensitivity
    from reconvene.artifact import from_pretrained, load, push_to_hub, save
    from reconvene.costs import Budget
    from reconvene.deploy import export
    from reconvene.deploy.measure import Measurement, measure
    from reconvene.errors import ReconveneError
    from reconvene.planning.iterative import prune_iteratively
    from reconvene.planning.operations.replacement import replace
    from reconvene.planning.plan import plan, prune
    from reconvene.planning.regrowth.regrow import prune_and_regrow
    from reconvene.planning.regrowth.regrowth import Regrowth
    from reconvene.planning.search.search import search
    from reconvene.planning.simplify import simplify
    from reconvene.surgery import Plan
    from reconvene.tasks import metrics
    from reconvene.training import TrainConfig
    from reconvene.training.tuning import Tuning
    from reconvene.workflow.compression import compress
    from reconvene.workflow.deploy import Int8, bench
    from reconvene.workflow.evaluate import evaluate
    from reconvene.workflow.prune import Pruning
    from reconvene.workflow.report import report
    from reconvene.workflow.run import run
    from reconvene.workflow.train import train

_HOMES = {
    "Budget": "costs",
    "Int8": "workflow.deploy",
    "Measurement": "deploy",
    "Plan": "surgery",
    "Pruning": "workflow.prune",
    "ReconveneError": "errors",
    "Regrowth": "planning.regrowth.regrowth",
    "TrainConfig": "training",
    "Tuning": "training.tuning",
    "bench": "workflow.deploy",
    "compress": "workflow.compression",
    "evaluate": "workflow.evaluate",
    "export": "deploy",
    "from_pretrained": "artifact",
    "groups": "api",
    "load": "artifact",
    "masks": "api",
    "measure": "deploy",
    "metrics": "tasks",
    "plan": "planning.plan",
    "prune": "planning.plan",
    "prune_and_regrow": "planning.regrowth.regrow",
    "prune_iteratively": "planning.iterative",
    "push_to_hub": "artifact",
    "rectify": "api",
    "replace": "planning.operations.replacement",
    "report": "workflow.report",
    "run": "workflow.run",
    "save": "artifact",
    "search": "planning.search.search",
    "sensitivity": "api",
    "simplify": "planning.simplify",
    "train": "workflow.train",
}

__all__ = [
    "Budget",
    "Int8",
    "Measurement",
    "Plan",
    "Pruning",
    "ReconveneError",
    "Regrowth",
    "TrainConfig",
    "Tuning",
    "__version__",
    "bench",
    "compress",
    "evaluate",
    "export",
    "from_pretrained",
    "groups",
    "load",
    "masks",
    "measure",
    "metrics",
    "plan",
    "prune",
    "prune_and_regrow",
    "prune_iteratively",
    "push_to_hub",
    "rectify",
    "replace",
    "report",
    "run",
    "save",
    "search",
    "sensitivity",
    "simplify",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'reconvene' has no attribute {name!r}")
    return getattr(importlib.import_module(f"reconvene.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
