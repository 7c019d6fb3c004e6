"""Results of the most frequent calls on meta: shape and strides, on which the following calls depend.

PyTorch's own meta kernels for these calls are decompositions in Python. They cost more than all other work together,
and the first of them imports the compiler and sympy, which takes as long as ``import torch``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from reconvene.structure.meta_windows import (
    adaptive_pooling,
    average_pooling,
    convolution,
    max_pooling,
    shape_of,
    upsampling,
)

_ATEN = torch.ops.aten


def known_result(func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """The result of a call on meta; ``None`` where PyTorch has to compute it, or to complain."""
    kernel = KERNELS.get(func)
    return None if kernel is None else kernel(*args, **kwargs)


def _elementwise(x: Tensor, *_: Any, **__: Any) -> Tensor | None:
    """A function of one tensor, position by position."""
    return x.clone() if x.is_floating_point() else None


def _in_place(x: Tensor, other: Any = 0, *_: Any, **__: Any) -> Tensor | None:
    """A call that writes its result into the first operand; ``None`` where the second broadcasts or promotes."""
    if isinstance(other, Tensor) and not (shape_of(other) == shape_of(x) and other.dtype == x.dtype):
        return None
    return x if x.is_floating_point() else None


def _binary(x: Tensor, other: Any, *, alpha: Any = 1) -> Tensor | None:
    """A function of two operands of one type, broadcast.

    ``silu_backward`` has PyTorch's C++ kernel on meta: shape, strides and errors of every elementwise call.
    """
    if not x.is_floating_point():
        return None
    if not isinstance(other, Tensor):
        return x.clone() if isinstance(other, (int, float)) else None
    if x.dtype != other.dtype or not (x.is_meta and other.is_meta):
        return None
    result: Tensor = _ATEN.silu_backward.default(x, other)
    return result


def _masked(x: Tensor, mask: Tensor, _: Any) -> Tensor | None:
    fits = mask.ndim <= x.ndim and all(
        m in (1, n) for m, n in zip(shape_of(mask)[::-1], shape_of(x)[::-1], strict=False)
    )
    return x.clone() if fits else None


def _row_wise(x: Tensor, *_: Any) -> Tensor | None:
    """A call whose result has the shape of its input, and plain strides."""
    return x.clone() if x.is_contiguous() else None


def _cloned(x: Tensor, *, memory_format: torch.memory_format | None = None) -> Tensor | None:
    if memory_format is torch.contiguous_format:
        return torch.empty(shape_of(x), dtype=x.dtype, device="meta")
    return x.clone() if memory_format in (None, torch.preserve_format) else None


def _reduced(x: Tensor, dims: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Tensor | None:
    """A mean, sum or maximum over some dimensions."""
    if dtype is not None or not x.is_floating_point() or not x.is_contiguous():
        return None
    ndim = x.ndim
    listed = range(ndim) if dims is None or dims == [] else [dims] if isinstance(dims, int) else dims
    if not all(-ndim <= dim < ndim for dim in listed):
        return None
    axes = {dim % ndim for dim in listed}
    shape = [1 if axis in axes else n for axis, n in enumerate(shape_of(x)) if keepdim or axis not in axes]
    return torch.empty(shape, dtype=x.dtype, device="meta")


def _norm(x: Tensor, _: Any = 2, dims: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Tensor | None:
    return _reduced(x, dims, keepdim, dtype=dtype)


def _batch_norm(x: Tensor, *_: Any) -> tuple[Tensor, ...]:
    """Its memory is channels-last or plain, whatever the strides of the input."""
    empty = torch.empty(0, dtype=x.dtype, device="meta")
    channels_last = x.ndim == 4 and not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last)
    return x.clone() if channels_last else torch.empty(shape_of(x), dtype=x.dtype, device="meta"), empty, empty


def _layer_norm(x: Tensor, shape: Any, weight: Any, bias: Any, _: Any) -> tuple[Tensor, ...] | None:
    normalised, lead = tuple(shape), shape_of(x)[: x.ndim - len(shape)]
    affine = all(w is None or tuple(shape_of(w)) == normalised for w in (weight, bias))
    if not affine or tuple(shape_of(x)[len(lead) :]) != normalised:
        return None
    statistics = [torch.empty((*lead, *[1] * len(normalised)), dtype=x.dtype, device="meta") for _ in range(2)]
    return torch.empty(shape_of(x), dtype=x.dtype, device="meta"), *statistics


def _group_norm(
    x: Tensor, weight: Any, bias: Any, batch: int, channels: int, area: int, groups: int, _: float
) -> tuple[Tensor, ...] | None:
    affine = all(w is None or tuple(shape_of(w)) == (channels,) for w in (weight, bias))
    if not (affine and x.is_contiguous() and channels % groups == 0 and x.numel() == batch * channels * area):
        return None
    return x.clone(), *(torch.empty((batch, groups), dtype=x.dtype, device="meta") for _ in range(2))


def _product(a: Tensor, b: Tensor) -> Tensor | None:
    """``[m, k] @ [k, n]``, or a batch of such."""
    if a.dtype != b.dtype or shape_of(a)[-1] != shape_of(b)[-2] or shape_of(a)[:-2] != shape_of(b)[:-2]:
        return None
    return torch.empty((*shape_of(a)[:-1], shape_of(b)[-1]), dtype=a.dtype, device="meta")


def _added_product(bias: Tensor, a: Tensor, b: Tensor, **_: Any) -> Tensor | None:
    """``bias + a @ b`` with a bias for every column."""
    return _product(a, b) if shape_of(bias) == shape_of(b)[1:] and bias.dtype == a.dtype else None


def _grouped_product(a: Tensor, b: Tensor, *options: Any, **_: Any) -> Tensor | None:
    """Products of experts, whose meta kernel knows half precision only; ``None`` where PyTorch had better look."""
    dtype = options[2] if len(options) > 2 and options[2] is not None else a.dtype
    if a.dtype != b.dtype or shape_of(a)[-1] != shape_of(b)[-2] or not (a.is_meta and b.is_meta):
        return None
    experts = (shape_of(a)[0],) if a.ndim == b.ndim == 3 else (len(options[0]),) if a.ndim == b.ndim == 2 else ()
    rows = shape_of(a)[1:2] if a.ndim == 3 else shape_of(a)[:1]
    return torch.empty((*experts, *rows, shape_of(b)[-1]), dtype=dtype, device="meta")


def _joined(tensors: Sequence[Tensor], dim: int = 0) -> Tensor | None:
    """The output of a plain concatenation; ``None`` where PyTorch had better look itself."""
    first = tensors[0]
    if not all(t.ndim == first.ndim and t.dtype == first.dtype and t.is_meta and t.is_contiguous() for t in tensors):
        return None
    axis = dim + first.ndim if dim < 0 else dim
    shapes = [list(shape_of(t)) for t in tensors]
    total = sum(shape.pop(axis) for shape in shapes) if 0 <= axis < first.ndim else 0
    if not total or any(shape != shapes[0] for shape in shapes):
        return None
    return torch.empty((*shapes[0][:axis], total, *shapes[0][axis:]), dtype=first.dtype, device="meta")


_ELEMENTWISE = (
    "relu gelu silu sigmoid hardswish hardtanh hardsigmoid tanh exp rsqrt sqrt neg abs clamp clamp_min leaky_relu elu "
    "softplus mish sin cos pow.Tensor_Scalar mul.Scalar"
)
_IN_PLACE = "relu_ silu_ hardswish_ hardtanh_ sigmoid_ tanh_ leaky_relu_ elu_ add_.Tensor mul_.Tensor"
_BINARY = "add.Tensor sub.Tensor mul.Tensor div.Tensor"
_ROW_WISE = "_safe_softmax _softmax _log_softmax roll"
_REDUCED = "mean.dim sum.dim_IntList amax amin"
_UPSAMPLING = (
    "upsample_nearest1d upsample_nearest2d upsample_nearest3d upsample_linear1d upsample_bilinear2d "
    "upsample_bicubic2d upsample_trilinear3d"
)


def _overloads(names: str) -> list[Any]:
    """The operators of these names; an overload that is not named is the default one."""
    pairs = [name.partition(".") for name in names.split()]
    return [getattr(getattr(_ATEN, name), overload or "default") for name, _, overload in pairs]


KERNELS: dict[Any, Callable[..., Any]] = {
    **dict.fromkeys(_overloads(_ELEMENTWISE), _elementwise),
    **dict.fromkeys(_overloads(_IN_PLACE), _in_place),
    **dict.fromkeys(_overloads(_BINARY), _binary),
    **dict.fromkeys(_overloads(_ROW_WISE), _row_wise),
    **dict.fromkeys(_overloads(_REDUCED), _reduced),
    **dict.fromkeys(_overloads(_UPSAMPLING), upsampling),
    **dict.fromkeys(_overloads("native_batch_norm _native_batch_norm_legit_no_training"), _batch_norm),
    **dict.fromkeys(_overloads("mm bmm"), _product),
    _ATEN.convolution.default: convolution,
    _ATEN.max_pool2d_with_indices.default: max_pooling,
    _ATEN.avg_pool2d.default: average_pooling,
    _ATEN._adaptive_avg_pool2d.default: adaptive_pooling,
    _ATEN.native_layer_norm.default: _layer_norm,
    _ATEN.native_group_norm.default: _group_norm,
    _ATEN.linalg_vector_norm.default: _norm,
    _ATEN.addmm.default: _added_product,
    _ATEN._grouped_mm.default: _grouped_product,
    _ATEN.cat.default: _joined,
    _ATEN.clone.default: _cloned,
    _ATEN.masked_fill.Scalar: _masked,
}
"""The kernel of an operator: takes the arguments of the call, and gives ``None`` where PyTorch has to look itself."""
