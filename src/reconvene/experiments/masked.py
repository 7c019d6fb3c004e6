"""Training under unstructured masks: what a mask removes is zero in every forward pass and never comes back."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from reconvene.errors import ModelError


class Masked(nn.Module):
    """``w -> w * mask``. The gradient of a removed weight is exactly zero, as the product's rule says."""

    mask: Tensor

    def __init__(self, mask: Tensor) -> None:
        super().__init__()
        self.register_buffer("mask", mask)

    def forward(self, weight: Tensor) -> Tensor:
        """The weight, zero wherever the mask is."""
        return weight * self.mask


def put_on(model: nn.Module, masks: Mapping[str, Tensor]) -> nn.Module:
    """Hold ``model`` to ``masks`` (bool, by parameter name) from now on, in place. Returns the model.

    Raises:
        ModelError: a mask names no parameter of the model, or has another shape than it.
    """
    parameters = dict(model.named_parameters())
    for name, mask in masks.items():
        if name not in parameters or parameters[name].shape != mask.shape:
            raise ModelError(f"the mask of {name!r}, {tuple(mask.shape)}, fits no parameter of {type(model).__name__}")
        path, _, leaf = name.rpartition(".")
        weight = parameters[name]
        with torch.no_grad():
            weight.mul_(mask.to(weight.device))  # so that weight decay and clipping see what is there, and no more
        factor = mask.to(weight.device, weight.dtype)
        parametrize.register_parametrization(model.get_submodule(path), leaf, Masked(factor))
    return model


def take_off(model: nn.Module) -> nn.Module:
    """Make a masked model plain again, in place: removed weights are zeros in ordinary parameters."""
    for module in model.modules():
        for leaf in list(getattr(module, "parametrizations", {})):
            parametrizations = module.parametrizations[leaf]  # type: ignore[index]
            if any(isinstance(part, Masked) for part in parametrizations):
                parametrize.remove_parametrizations(module, leaf, leave_parametrized=True)
    return model
