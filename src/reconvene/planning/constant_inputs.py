"""Inputs of layers that are constant whatever a network is given, found with random weights in place of its own."""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from reconvene.rectifier.calibration import calibration_batch, undisturbed
from reconvene.structure import call, map_tensors, tensors_in
from reconvene.structure.copies import copy_model
from reconvene.utils.norms import is_norm

PROBES = 8
"""Networks with random weights in which a channel must be constant, so that its zeros are the reason.

Behind a ReLU one channel in three is zero by chance for one sample.
"""
ZERO = 1e-9
"""A weight is zero if it is smaller than this share of the largest of its tensor."""


def random_like(model: nn.Module, seed: int) -> nn.Module:
    """A copy in which every weight is drawn anew, but for those that are zero."""
    probe = copy_model(model)
    generator = torch.Generator().manual_seed(seed)
    scales = {id(getattr(module, "weight", None)) for module in probe.modules() if is_norm(module)}
    with torch.no_grad():
        for parameter in probe.parameters():
            if parameter.is_floating_point() and parameter.numel():
                alive = parameter.abs() > ZERO * parameter.abs().max()
                drawn = torch.randn(parameter.shape, generator=generator).to(parameter)
                fan_in = parameter[0].numel() if parameter.ndim > 1 else 100
                drawn = drawn.abs() + 0.5 if id(parameter) in scales else drawn * (2.0 / fan_in) ** 0.5
                parameter.copy_(torch.where(alive, drawn, torch.zeros_like(drawn)))
    return probe


Ranges = dict[str, tuple[Tensor, Tensor]]
"""The least and the largest value of every input channel, by layer."""


def ranges_of(model: nn.Module, owners: set[str], inputs: Any, seed: int) -> Ranges:
    """What layers are given on a calibration batch; of no channels where a layer is never called by itself."""
    ranges: Ranges = dict.fromkeys(owners, (torch.empty(0), torch.empty(0)))

    def look(name: str, module: nn.Module, args: Any, kwargs: Any) -> None:
        value = tensors_in((args, kwargs))[0].detach().double().cpu()
        axis = -1 - len(module.kernel_size) if isinstance(module, _ConvNd) else -1  # a batch may be missing
        flat = value.movedim(axis, 0).reshape(value.shape[axis], -1)
        low, high = flat.amin(dim=1), flat.amax(dim=1)
        if len(ranges[name][0]):  # it runs more than once
            low, high = torch.minimum(low, ranges[name][0]), torch.maximum(high, ranges[name][1])
        ranges[name] = low, high

    with ExitStack() as stack:
        for name in owners:
            hook = partial(look, name)
            stack.callback(model.get_submodule(name).register_forward_pre_hook(hook, with_kwargs=True).remove)
        for draw in (seed, seed + PROBES):
            outputs_of(model, varied_batch(inputs, draw), seed)
    return ranges


def varied_batch(inputs: Any, seed: int) -> Any:
    """A calibration batch, each number times one of its own: of one sample without a batch everything is constant."""
    generator = torch.Generator().manual_seed(seed)

    def varied(tensor: Tensor) -> Tensor:
        factors = torch.rand(tensor.shape, generator=generator) + 0.5
        return tensor * factors.to(tensor) if tensor.is_floating_point() else tensor

    return map_tensors(varied, calibration_batch(inputs, seed=seed))


def constant_inputs(model: nn.Module, owners: set[str], inputs: Any) -> dict[str, NDArray[np.bool_]]:
    """Which inputs of layers are constant in every network with random weights, by layer: ``[channels]``."""
    constant: dict[str, NDArray[np.bool_]] = {}
    for seed in range(PROBES):
        ranges = ranges_of(random_like(model, seed), owners, inputs, seed)
        constant = {owner: is_constant(ranges[owner]) & constant.get(owner, True) for owner in owners}
        if not any(channels.any() for channels in constant.values()):
            break
    return constant


def is_constant(limits: tuple[Tensor, Tensor]) -> NDArray[np.bool_]:
    """Whether every channel has one value, from its least and its largest value: ``[channels]``."""
    low, high = limits
    return np.asarray((high - low <= ZERO * high.abs().clamp(min=1.0)).numpy(), dtype=np.bool_)


def outputs_of(model: nn.Module, batch: Any, seed: int) -> list[Tensor]:
    """All tensors that the model returns for a batch; its mode and the random state stay as they are."""
    with undisturbed(model, seed=seed):
        return tensors_in(call(model, batch))
