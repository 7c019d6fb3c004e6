"""Whether a network was trained, as the running statistics of its norms tell."""

from __future__ import annotations

from torch import nn

from reconvene.structure.nesting import on_model
from reconvene.utils.norms import keeps_statistics


class UntrainedWeightsWarning(UserWarning):
    """A network that looks untrained is pruned as a trained one."""


class TrainedWeightsWarning(UserWarning):
    """A network that looks trained is about to lose its weights."""


@on_model
def moved_norms(model: nn.Module) -> list[str] | None:
    """Names of the norms whose running mean or variance is not the one that they begin with, 0 or 1.

    A network with such norms was trained; one whose list is empty was not. None where nothing tells: no norm keeps
    statistics, or they are on meta.
    """
    norms = {name: module for name, module in model.named_modules() if keeps_statistics(module)}
    on_meta = {name for name, norm in norms.items() if norm.running_mean.is_meta or norm.running_var.is_meta}
    moved = [
        name
        for name, norm in norms.items()
        if name not in on_meta and bool((norm.running_mean != 0).any() or (norm.running_var != 1).any())
    ]
    return moved if moved or (norms and not on_meta) else None
