"""The all-ones input a flow criterion feeds: shaped like the example, smaller where that is safe."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from reconvene.structure.inputs import map_tensors, tensors_in

_SIDES = (32, 48, 64, 96, 128, 160, 192)
_STEP = 16  # sides of an input that is not square are rounded up to a multiple of this


def inputs_of_ones(example_inputs: Any, dtype: torch.dtype, device: torch.device, *, channels_last: bool) -> Any:
    """The example inputs with ones in every floating tensor; token ids, masks and flags as they are.

    Images lie as the weights do (``Layout``) with ``channels_last``, else as the model expects them: contiguous.
    """

    def fill(tensor: Tensor) -> Tensor:
        if tensor.is_floating_point():
            order = torch.channels_last if channels_last and tensor.ndim == 4 else torch.contiguous_format
            return torch.ones(tensor.shape, dtype=dtype, device=device).to(memory_format=order)
        return tensor.detach().to(device)

    return map_tensors(fill, example_inputs)


def describe_shapes(inputs: Any) -> str:
    """Shapes of the tensors in ``inputs`` in words."""
    return " and ".join("x".join(map(str, tensor.shape)) or "scalar" for tensor in tensors_in(inputs))


def smallest(example_inputs: Any, extents: Callable[[Any], list[tuple[int, int]] | None], *, spatial: bool) -> Any:
    """The smallest input the model takes as well as the given one: one sample, and with ``spatial`` fewer pixels.

    ``extents(inputs)`` runs the model and says, for every convolution, how large its input and how long its kernel is
    (per dimension), or returns None where the model refuses the input. A smaller input is taken only when every kernel
    that the given one filled is still filled, so that no weight loses its signal; all images keep their aspect.
    """
    original_extents = extents(example_inputs)
    single = _changed(example_inputs, None)
    base = single if original_extents is not None and extents(single) == original_extents else example_inputs
    if original_extents is None or not spatial:
        return base
    for side in _SIDES:
        candidate = _changed(base, side)
        if candidate is None:
            continue
        candidate_extents = extents(candidate)
        if (
            candidate_extents is not None
            and len(candidate_extents) == len(original_extents)
            and all(
                size >= min(reach, original)
                for (size, reach), (original, _) in zip(candidate_extents, original_extents, strict=True)
            )
        ):
            return candidate
    return base


def _changed(inputs: Any, side: int | None) -> Any:
    """Images ``[batch, channels, height, width]`` cut to one sample, or to a shorter ``side``.

    ``side`` None stands for one sample; the result is None where no image is longer than ``side``.
    """
    images = [tensor for tensor in tensors_in(inputs) if tensor.is_floating_point() and tensor.ndim == 4]
    if side is None:
        lone = len(images) == len(tensors_in(inputs))  # other tensors may carry the same batch dimension
        return map_tensors(lambda tensor: tensor[:1], inputs) if lone else inputs
    if not images or min(min(image.shape[2:]) for image in images) <= side:
        return None
    shorter = min(min(image.shape[2:]) for image in images)

    def cut(tensor: Tensor) -> Tensor:
        if not tensor.is_floating_point() or tensor.ndim != 4:
            return tensor
        height, width = (
            side if extent == shorter else _STEP * math.ceil(extent * side / shorter / _STEP)
            for extent in tensor.shape[2:]
        )
        return tensor[:, :, :height, :width]

    return map_tensors(cut, inputs)
