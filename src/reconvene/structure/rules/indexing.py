"""Calls that write to or read from positions chosen by number or by value: boxes of detectors, scattered updates."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from reconvene.structure.labels import Dim, rigid
from reconvene.structure.recording import Op
from reconvene.structure.rules.context import Context, Rule, axis_of, because, with_dimensions


def chosen_by_value(ctx: Context, op: Op) -> None:
    """``nonzero``, non-maximum suppression, unique values: which positions come out depends on all that go in."""
    ctx.pin_all(op, because(op, "chooses positions by value"))


def number(ctx: Context, op: Op) -> None:
    """A tensor of one number becomes a number of Python: there is no dimension to follow."""


def python_values(ctx: Context, op: Op) -> None:
    """``x.numpy()``, ``x.tolist()``: what code computes from values outside PyTorch, no recording sees."""
    ctx.pin_all(op, because(op, "reads values out of PyTorch"))


def region_align(ctx: Context, op: Op) -> None:
    """Boxes ``[boxes, 5]`` cut from pictures ``[batch, channels, h, w]``: channels pass, each on its own."""
    x, boxes, out = op.args[0], op.args[1], op.outs[0]
    assert out is not None
    dims = ctx.dims(x)
    ctx.pin(op, dims[0], *dims[2:], *ctx.dims(boxes))
    ctx.set(out, [rigid(out.shape[0]), dims[1], *(rigid(size) for size in out.shape[2:])])


def indexed(ctx: Context, x: Tensor, indices: Sequence[Tensor | None], ndim: int) -> tuple[list[Dim], list[Dim | None]]:
    """Dimensions of ``x`` that ``x[indices]`` picks from, and the ``ndim`` dimensions of the result.

    A boolean mask indexes as many dimensions of ``x`` as it has itself. The new dimensions (``None`` in the result)
    replace the indexed ones if these are neighbours, else they come first (NumPy's rule).
    """
    dims = ctx.dims(x)
    indexed_axes: list[int] = []
    remaining: list[int] = []
    first = len(dims)
    axis = 0
    for selector in indices:
        count = selector.ndim if selector is not None and selector.dtype in (torch.bool, torch.uint8) else 1
        if selector is not None:
            first = min(first, len(remaining))
            indexed_axes += range(axis, axis + count)
        else:
            remaining.append(axis)
        axis += count
    remaining += range(axis, len(dims))
    if indexed_axes and indexed_axes != list(range(indexed_axes[0], indexed_axes[-1] + 1)):
        first = 0
    passing: list[Dim | None] = [dims[a] for a in remaining]
    picked: list[Dim | None] = [None] * (ndim - len(remaining))
    return [dims[a] for a in indexed_axes], [*passing[:first], *picked, *passing[first:]]


def index(ctx: Context, op: Op) -> None:
    """Advanced indexing: indexed dimensions need all positions, the others pass."""
    x, indices, out = op.args[0], op.args[1], op.outs[0]
    assert out is not None
    indexed_dims, result = indexed(ctx, x, indices, out.ndim)
    ctx.pin(op, *indexed_dims, *_dims_of(ctx, indices), why=because(op, "picks positions by number"))
    ctx.set(out, [rigid(s) if dim is None else dim for dim, s in zip(result, out.shape, strict=True)])
    ctx.same_source(op)


def _dims_of(ctx: Context, indices: Sequence[Tensor | None]) -> list[Dim]:
    return [dim for selector in indices if selector is not None for dim in ctx.dims(selector)]


def index_put(ctx: Context, op: Op) -> None:
    """``x[indices] = values``: indexed dimensions need all positions, the others are the same in ``values``."""
    x, indices, values = op.args[:3]
    reason = because(op, "writes to positions by number")
    picks = [selector for selector in indices if selector is not None]
    spread = max((1 if selector.dtype in (torch.bool, torch.uint8) else selector.ndim for selector in picks), default=0)
    indexed_count = sum(selector.ndim if selector.dtype in (torch.bool, torch.uint8) else 1 for selector in picks)
    indexed_dims, result = indexed(ctx, x, indices, x.ndim - indexed_count + spread)
    ctx.pin(op, *indexed_dims, *_dims_of(ctx, indices), why=reason)
    value_dims = ctx.dims(values)
    for result_dim, value_dim in zip(result[::-1], value_dims[::-1], strict=False):
        if result_dim is None:
            ctx.pin(op, value_dim, why=reason)
        else:
            ctx.labels.unify(result_dim, value_dim, reason)
    ctx.pin(op, *value_dims[: max(len(value_dims) - len(result), 0)], why=reason)
    ctx.set(op.outs[0], ctx.dims(x))


@with_dimensions
def index_select(ctx: Context, op: Op) -> None:
    """Positions of one dimension by number."""
    x, out = op.args[0], op.outs[0]
    assert out is not None
    axis = axis_of(op.args[1], x.ndim)
    dims = list(ctx.dims(x))
    ctx.pin(op, dims[axis], why=because(op, "picks positions by number"))
    dims[axis] = rigid(out.shape[axis])
    ctx.set(out, dims)
    ctx.same_source(op)


@with_dimensions
def _gather(ctx: Context, op: Op) -> None:
    """Positions of one dimension by number, chosen anew at every position of the others."""
    x, axis, indices, out = op.args[0], axis_of(op.args[1], op.args[0].ndim), op.args[2], op.outs[0]
    assert out is not None
    dims, chosen = ctx.dims(x), ctx.dims(indices)
    reason = because(op, "picks positions by number")
    if len(dims) != len(chosen):  # a single index, of no dimension
        ctx.pin_all(op, reason)
        return
    ctx.pin(op, dims[axis], why=reason)
    result: list[Dim] = []
    for a, size in enumerate(out.shape):
        if a != axis and x.shape[a] == size:
            ctx.labels.unify(dims[a], chosen[a], reason)
            result.append(dims[a])
        else:
            ctx.pin(op, dims[a], chosen[a])
            result.append(rigid(size))
    ctx.set(out, result)


def embedding(ctx: Context, op: Op) -> None:
    """Rows are looked up by number, columns are channels."""
    weight, indices = op.args[0], op.args[1]
    rows, columns = ctx.dims(weight)
    ctx.pin(op, rows, why=because(op, "looks rows up by number"))
    ctx.attribute(op, "embedding_dim", columns)
    ctx.set(op.outs[0], [*ctx.dims(indices), columns])


@with_dimensions
def index_fill(ctx: Context, op: Op) -> None:
    """``index_fill``, ``index_copy``, ``index_add``: one dimension by number, the others are the same in all."""
    x, axis = op.args[0], axis_of(op.args[1], op.args[0].ndim)
    _by_number(ctx, op, x, axis, [t for t in op.args[3:] if isinstance(t, Tensor) and t.ndim])


@with_dimensions
def scatter(ctx: Context, op: Op) -> None:
    """Positions of one dimension by number, chosen anew at every position of the others."""
    x, axis = op.args[0], axis_of(op.args[1], op.args[0].ndim)
    _by_number(ctx, op, x, axis, [t for t in op.args[2:] if isinstance(t, Tensor) and t.ndim])


def _by_number(ctx: Context, op: Op, x: Tensor, axis: int, operands: list[Tensor]) -> None:
    reason = because(op, "writes to positions by number")
    dims: list[Dim] = ctx.dims(x)
    ctx.pin(op, dims[axis], why=reason)
    for operand in operands:
        for a, dim in enumerate(ctx.dims(operand)):
            if a != axis and operand.ndim == x.ndim and operand.shape[a] == x.shape[a]:
                ctx.labels.unify(dims[a], dim, reason)
            else:
                ctx.pin(op, dim, *dims[a : a + 1], why=reason)
    ctx.set(op.outs[0], dims)


INDEXING_RULES: dict[str, Rule] = {
    **dict.fromkeys(("nonzero", "nonzero_static", "_unique2", "unique_dim", "unique_consecutive"), chosen_by_value),
    **dict.fromkeys(("masked_scatter", "histc", "bincount"), chosen_by_value),
    **dict.fromkeys(("torchvision::nms", "masked_select", "searchsorted", "bucketize", "aminmax"), chosen_by_value),
    "_local_scalar_dense": number,
    **dict.fromkeys(("value::numpy", "value::tolist", "value::__array__"), python_values),
    "torchvision::roi_align": region_align,
    "index": index,
    "_unsafe_index": index,
    "index_select": index_select,
    "gather": _gather,
    "embedding": embedding,
    "index_put": index_put,
    "_unsafe_index_put": index_put,
    **dict.fromkeys(("index_fill", "index_copy", "index_add"), index_fill),
    **dict.fromkeys(("scatter", "scatter_add", "scatter_reduce"), scatter),
}
