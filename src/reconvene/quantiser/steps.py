"""Rounding to the steps of an integer type, as runtimes do it: what fake quantisation of activations goes by.

``integer = clamp(round(value / scale) + zero_point)``, rounded to even, and ``(integer - zero_point) * scale`` is what
the network goes on with: ONNX's QuantizeLinear and DequantizeLinear, bit for bit. PyTorch's own operators multiply by
``1 / scale``, which takes some values half-way between two steps to the other one.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def to_steps(values: Tensor, scale: Tensor, zero_point: Tensor, lowest: int, highest: int, *, axis: int = -1) -> Tensor:
    """The values that integers from ``lowest`` to ``highest`` stand for, in the shape of ``values``.

    The gradient passes straight through within the range and is zero beyond it.

    Args:
        values: real numbers of any shape.
        scale: width of a step, ``[]`` or ``[1]``, or one a channel, ``[channels]``.
        zero_point: the integer that stands for zero, in the shape of ``scale``.
        lowest: the smallest integer.
        highest: the largest integer.
        axis: the dimension of the channels, where ``scale`` has several.

    >>> to_steps(torch.tensor([0.25, 0.75, 9.0]), torch.tensor(0.5), torch.tensor(1), 0, 7)
    tensor([0., 1., 3.])
    """
    shape = [1] * values.ndim
    if scale.numel() > 1:
        shape[axis] = -1
    rounded: Tensor = _Steps.apply(values, scale.reshape(shape), zero_point.reshape(shape), lowest, highest)
    return rounded


class _Steps(torch.autograd.Function):
    """``to_steps`` whose scales have as many dimensions as the values."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, scale: Tensor, zero_point: Tensor, lowest: int, highest: int) -> Tensor:
        """See ``to_steps``."""
        integers = torch.round(values / scale).add_(zero_point)
        ctx.save_for_backward((integers >= lowest) & (integers <= highest))
        return integers.clamp_(lowest, highest).sub_(zero_point).mul_(scale)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor, None, None, None, None]:
        """Of what stays within the range."""
        (inside,) = ctx.saved_tensors
        return gradients[0] * inside, None, None, None, None
