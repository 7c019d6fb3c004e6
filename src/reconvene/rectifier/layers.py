"""Which modules are layers with a weight, which are norms, and what about them is a decision rather than a draw."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import ParametrizationList

from reconvene.utils.norms import is_norm


def weighted_layers(model: nn.Module) -> dict[str, nn.Module]:
    """Leaf modules that hold weights (parameters of two dimensions or more), norms excepted, in module order."""
    return {
        name: module
        for name, module in model.named_modules()
        if weight_matrices(module)
        and not is_norm(module)
        and not isinstance(module, ParametrizationList)
        and next(module.children(), None) is None
    }


def weight_matrices(module: nn.Module) -> list[nn.Parameter]:
    """The module's own parameters of two dimensions or more."""
    return [p for p in module.parameters(recurse=False) if p.ndim >= 2]


def tied_to(model: nn.Module) -> dict[str, str]:
    """Another module that holds the same weight, for every module by name that shares one."""
    owners: dict[int, list[str]] = {}
    for name, module in model.named_modules():
        for weight in weight_matrices(module):
            owners.setdefault(id(weight), []).append(name)
    shared = [names for names in owners.values() if len(names) > 1]
    return {name: names[0] if name != names[0] else names[1] for names in shared for name in names}


def is_constant(tensor: Tensor) -> bool:
    """All values alike: chosen (zeros, ones, a prior), not drawn."""
    return bool((tensor == tensor.flatten()[0]).all())


def reset_norm(module: nn.Module) -> None:
    """Scale 1, shift 0, statistics 0 and 1, in place.

    A scale or shift of one single value stays: it was chosen, such as the zero scale that starts a residual branch
    silent.
    """
    with torch.no_grad():
        for name, value in (("weight", 1.0), ("bias", 0.0)):
            tensor = getattr(module, name, None)
            if isinstance(tensor, Tensor) and tensor.numel() and not is_constant(tensor):
                tensor.fill_(value)
        for name, value in (("running_mean", 0.0), ("running_var", 1.0), ("num_batches_tracked", 0.0)):
            tensor = getattr(module, name, None)
            if isinstance(tensor, Tensor):
                tensor.fill_(value)
