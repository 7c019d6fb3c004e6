"""Results of the most frequent calls on meta: shape and strides, on which the following calls depend.

PyTorch's own meta kernels for these calls are decompositions in Python, which cost more than all other work together.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch._prims_common import suggest_memory_format

_BATCH_NORMS = {torch.ops.aten.native_batch_norm.default, torch.ops.aten._native_batch_norm_legit_no_training.default}
_ATEN = torch.ops.aten
_ELEMENTWISE = {
    *(_ATEN.relu.default, _ATEN.gelu.default, _ATEN.silu.default, _ATEN.sigmoid.default, _ATEN.hardswish.default),
    *(_ATEN.hardtanh.default, _ATEN.hardsigmoid.default, _ATEN.add.Tensor, _ATEN.mul.Tensor),
    *(_ATEN.mul.Scalar, _ATEN._safe_softmax.default),
}
_ELEMENTWISE_IN_PLACE = {
    *(_ATEN.relu_.default, _ATEN.silu_.default, _ATEN.hardswish_.default, _ATEN.hardtanh_.default),
    *(_ATEN.sigmoid_.default, _ATEN.add_.Tensor, _ATEN.mul_.Tensor),
}


def known_result(func: Any, args: Sequence[Any]) -> Any:
    """The result of a call; ``None`` where shapes do not fit as they are: PyTorch broadcasts or complains."""
    if func in _BATCH_NORMS:
        empty = args[0].new_empty(0)
        return _normalised(args[0]), empty, empty
    if func is _ATEN.convolution.default:
        return _convolved(*args)
    if func is _ATEN.cat.default:
        return _joined(*args)
    if func is _ATEN.addmm.default:
        bias, a, b = args[:3]
        fits = a.shape[1] == b.shape[0] and bias.shape == b.shape[1:] and bias.dtype == a.dtype == b.dtype
        return a.new_empty(a.shape[0], b.shape[1]) if fits else None
    if func is _ATEN._grouped_mm.default:
        return _grouped(*args)
    if func is _ATEN.native_layer_norm.default:
        x, shape = args[0], tuple(args[1])
        statistic = x.new_empty(*x.shape[: x.ndim - len(shape)], *[1] * len(shape))
        fits = tuple(x.shape[x.ndim - len(shape) :]) == shape and all(w is None or w.shape == shape for w in args[2:4])
        return (torch.empty(x.shape, dtype=x.dtype, device="meta"), statistic, _like(statistic)) if fits else None
    in_place = func in _ELEMENTWISE_IN_PLACE
    if not in_place and func not in _ELEMENTWISE:
        return None
    x = args[0]
    if len(args) > 1 and isinstance(args[1], Tensor):
        alike = args[1].shape == x.shape and args[1].dtype == x.dtype
        if not alike or not (in_place or x.is_contiguous()):  # strides of the result depend on both operands
            return None
    return x if in_place else _like(x)


def _like(x: Tensor) -> Tensor:
    """``empty_like``, which on meta is written in Python and ten times as slow as ``empty``."""
    return torch.empty(x.shape, dtype=x.dtype, device="meta") if x.is_contiguous() else torch.empty_like(x)


def _grouped(a: Tensor, b: Tensor, *options: Any) -> Tensor | None:
    """Products of experts, whose meta kernel knows half precision only; ``None`` where PyTorch had better look."""
    dtype = options[2] if len(options) > 2 and options[2] is not None else a.dtype
    if a.dtype != b.dtype or a.shape[-1] != b.shape[-2] or not (a.is_meta and b.is_meta):
        return None
    experts = (a.shape[0],) if a.ndim == b.ndim == 3 else (len(options[0]),) if a.ndim == b.ndim == 2 else ()
    rows = a.shape[1:2] if a.ndim == 3 else a.shape[:1]
    return torch.empty((*experts, *rows, b.shape[-1]), dtype=dtype, device="meta")


def _normalised(x: Tensor) -> Tensor:
    """The output of a batch norm, whose memory is channels-last or plain, whatever the strides of its input."""
    if x.ndim == 4 and not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last):
        return torch.empty_like(x)
    return torch.empty(x.shape, dtype=x.dtype, device="meta")


def _joined(tensors: Sequence[Tensor], dim: int = 0) -> Tensor | None:
    """The output of a plain concatenation; ``None`` where PyTorch had better look itself."""
    first = tensors[0]
    if not all(t.ndim == first.ndim and t.dtype == first.dtype and t.is_meta and t.is_contiguous() for t in tensors):
        return None
    axis = dim + first.ndim if dim < 0 else dim
    shapes = [list(t.shape) for t in tensors]
    total = sum(shape.pop(axis) for shape in shapes) if 0 <= axis < first.ndim else 0
    if not total or any(shape != shapes[0] for shape in shapes):
        return None
    return torch.empty((*shapes[0][:axis], total, *shapes[0][axis:]), dtype=first.dtype, device="meta")


def _convolved(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Any,
    padding: Any,
    dilation: Any,
    transposed: bool,
    *options: Any,
) -> Tensor | None:
    """The output of a plain convolution; ``None`` where PyTorch had better look itself."""
    groups = options[-1]
    spatial = weight.ndim - 2
    plain = not transposed and x.ndim == weight.ndim and x.dtype == weight.dtype
    if not plain or x.shape[1] != weight.shape[1] * groups or weight.shape[0] % groups:
        return None
    if bias is not None and (bias.shape != weight.shape[:1] or bias.dtype != x.dtype):
        return None
    if not len(stride) == len(padding) == len(dilation) == spatial:
        return None
    size = [
        (n + 2 * p - d * (k - 1) - 1) // s + 1
        for n, k, s, p, d in zip(x.shape[2:], weight.shape[2:], stride, padding, dilation, strict=True)
    ]
    if min(size) <= 0:
        return None
    shape = (x.shape[0], weight.shape[0], *size)
    if x.is_contiguous() and weight.is_contiguous():
        return torch.empty(shape, dtype=x.dtype, device="meta")
    formats = {suggest_memory_format(tensor) for tensor in (x, weight)} - {torch.contiguous_format}
    return torch.empty(shape, dtype=x.dtype, device="meta", memory_format=next(iter(formats), torch.contiguous_format))
