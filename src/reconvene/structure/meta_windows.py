"""Results on meta of calls that slide a window over space: convolutions, pooling, resizing.

Each gives ``None`` where PyTorch has to look itself: unusual arguments, and those that do not fit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._prims_common import suggest_memory_format

shape_of: Callable[[Tensor], torch.Size] = torch._C.TensorBase.shape.__get__  # type: ignore[attr-defined]
"""The shape of a tensor, past the property that hands out traced sizes while a pass is recorded."""


def convolution(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Any,
    padding: Any,
    dilation: Any,
    transposed: bool,
    _: Any,
    groups: int,
) -> Tensor | None:
    """The output of a plain convolution, ``[batch, out, *space]``."""
    if transposed or x.ndim != weight.ndim or x.ndim < 3 or x.dtype != weight.dtype:
        return None
    (batch, channels, *space), (out, fan_in, *kernel) = shape_of(x), shape_of(weight)
    if channels != fan_in * groups or out % groups:
        return None
    if bias is not None and (shape_of(bias) != (out,) or bias.dtype != x.dtype):
        return None
    if not len(stride) == len(padding) == len(dilation) == len(kernel):
        return None
    size = [
        (n + 2 * p - d * (k - 1) - 1) // s + 1
        for n, k, s, p, d in zip(space, kernel, stride, padding, dilation, strict=True)
    ]
    if min(size) <= 0:
        return None
    shape = (batch, out, *size)
    if x.is_contiguous() and weight.is_contiguous():
        return torch.empty(shape, dtype=x.dtype, device="meta")
    formats = {suggest_memory_format(tensor) for tensor in (x, weight)} - {torch.contiguous_format}
    return torch.empty(shape, dtype=x.dtype, device="meta", memory_format=next(iter(formats), torch.contiguous_format))


def max_pooling(
    x: Tensor, kernel: Any, stride: Any = (), padding: Any = (0,), dilation: Any = (1,), ceil: bool = False
) -> tuple[Tensor, Tensor] | None:
    """Maxima and their positions."""
    shape = _pooled_shape(x, kernel, stride, padding, dilation, ceil)
    return None if shape is None else (_empty(x, shape), torch.empty(shape, dtype=torch.int64, device="meta"))


def average_pooling(
    x: Tensor,
    kernel: Any,
    stride: Any = (),
    padding: Any = (0,),
    ceil: bool = False,
    count_padding: bool = True,
    divisor: int | None = None,
) -> Tensor | None:
    """Means over windows."""
    shape = _pooled_shape(x, kernel, stride, padding, (1,), ceil)
    return None if shape is None or divisor is not None else _empty(x, shape)


def adaptive_pooling(x: Tensor, size: Sequence[int]) -> Tensor | None:
    """Means over as many windows as ``size`` says, which is ``[height, width]``."""
    fits = x.is_contiguous() and x.ndim == 4 and len(size) == 2 and min(size) > 0
    return _empty(x, (*shape_of(x)[:2], *map(int, size))) if fits else None


def upsampling(x: Tensor, size: Sequence[int], *_: Any) -> Tensor | None:
    """Space resized to ``size``."""
    fits = x.is_contiguous() and x.is_floating_point() and len(size) == x.ndim - 2 and min(size) > 0
    return _empty(x, (*shape_of(x)[:2], *map(int, size))) if fits else None


def _pooled_shape(
    x: Tensor, kernel: Any, stride: Any, padding: Any, dilation: Any, ceil: bool
) -> tuple[int, ...] | None:
    """The shape of a pooled tensor ``[batch, channels, height, width]``."""
    if x.ndim != 4 or not x.is_contiguous():
        return None
    size = []
    for n, *window in zip(shape_of(x)[2:], *map(_pair, (kernel, stride or kernel, padding, dilation)), strict=True):
        k, s, p, d = map(int, window)
        if 2 * p > k or min(k, s, d) < 1:
            return None
        reach = n + 2 * p - d * (k - 1) - 1
        count = (reach + (s - 1 if ceil else 0)) // s + 1
        if ceil and (count - 1) * s >= n + p:  # the last window must begin inside
            count -= 1
        size.append(count)
    return (*shape_of(x)[:2], *size) if min(size) > 0 else None


def _pair(values: Any) -> Sequence[int]:
    listed = [values] if isinstance(values, int) else list(values)
    return listed * 2 if len(listed) == 1 else listed


def _empty(x: Tensor, shape: Sequence[int]) -> Tensor:
    return torch.empty(shape, dtype=x.dtype, device="meta")
