"""Which modules are layers with a weight, which are norms, and what about them is a decision rather than a draw."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import ParametrizationList, is_parametrized
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from reconvene.utils.norms import is_norm

# How far a weight may be from the one that was asked for, as a share of its norm.
_NEAR = 1e-4


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


def parametrised_layers(model: nn.Module) -> dict[str, nn.Module]:
    """Modules, norms excepted, that compute their ``weight`` anew in each call: weight norm, spectral norm and such."""
    return {
        name: module
        for name, module in model.named_modules()
        if not is_norm(module) and (is_parametrized(module, "weight") or _has_weight_norm_of_old(module))
    }


def original_weights(module: nn.Module) -> list[nn.Parameter]:
    """The parameters that a layer's weight is, or is computed from."""
    originals = _originals(module)
    return weight_matrices(module if originals is None else originals)


def takes_weight(module: nn.Module) -> bool:
    """Whether a layer has its weight as a parameter, or a parametrisation that may compute one that is given."""
    return _originals(module) is not None or "weight" in module._parameters


def put_weight(module: nn.Module, weight: Tensor) -> bool:
    """Give a layer that ``takes_weight`` this one; False, and no change, where its parametrisation gives another."""
    originals = _originals(module)
    if originals is None:
        module.get_parameter("weight").copy_(weight)
        return True
    before = {name: tensor.clone() for name, tensor in originals.state_dict().items()}
    new = weight.to(module.weight)  # type: ignore[arg-type]
    try:
        module.weight = new
    except (RuntimeError, NotImplementedError, ValueError):  # there is no way back from a weight, or not from this one
        given = False
    else:
        off = float((module.weight.double() - new.double()).norm() / new.double().norm())
        given = off <= max(_NEAR, 10 * torch.finfo(new.dtype).eps)
    if not given:
        originals.load_state_dict(before)
    return given


def _originals(module: nn.Module) -> ParametrizationList | None:
    """What a parametrised weight is computed from."""
    if not is_parametrized(module, "weight"):
        return None
    found = module.get_submodule("parametrizations.weight")
    assert isinstance(found, ParametrizationList)
    return found


def _has_weight_norm_of_old(module: nn.Module) -> bool:
    """``torch.nn.utils.weight_norm`` and ``spectral_norm``, which compute the weight in a hook."""
    return any(isinstance(hook, WeightNorm | SpectralNorm) for hook in module._forward_pre_hooks.values())


def tied_to(model: nn.Module) -> dict[str, str]:
    """Another module that holds the same weight, for every module by name that shares one."""
    owners: dict[int, list[str]] = {}
    for name, module in model.named_modules():
        for weight in weight_matrices(module):
            owners.setdefault(id(weight), []).append(name.removesuffix(".parametrizations.weight"))
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
