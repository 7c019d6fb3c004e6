"""Calls that write to or read from positions chosen by number or by value: boxes of detectors, scattered updates."""

from __future__ import annotations

from torch import Tensor

from reconvene.structure.labels import Dim, rigid
from reconvene.structure.recording import Op
from reconvene.structure.rules.context import Context, Rule, axis_of


def chosen_by_value(ctx: Context, op: Op) -> None:
    """``nonzero``, non-maximum suppression, unique values: which positions come out depends on all that go in."""
    ctx.pin_all(op, f"{op.site} chooses positions by value")


def number(ctx: Context, op: Op) -> None:
    """A tensor of one number becomes a number of Python: there is no dimension to follow."""


def taken_out(ctx: Context, op: Op) -> None:
    """``x.numpy()``, ``x.tolist()``: what code computes from values outside PyTorch, no recording sees."""
    ctx.pin_all(op, f"{op.site} takes its values out of PyTorch")


def region_align(ctx: Context, op: Op) -> None:
    """Boxes ``[boxes, 5]`` cut from pictures ``[batch, channels, h, w]``: channels pass, each on its own."""
    x, boxes, out = op.args[0], op.args[1], op.outs[0]
    assert out is not None
    dims = ctx.dims(x)
    ctx.pin(op, dims[0], *dims[2:], *ctx.dims(boxes))
    ctx.set(out, [rigid(out.shape[0]), dims[1], *(rigid(size) for size in out.shape[2:])])


def index_put(ctx: Context, op: Op) -> None:
    """``x[indices] = values``: indexed dimensions need all positions, the others are the same in ``values``."""
    x, indices, values = op.args[:3]
    dims, given = ctx.dims(x), ctx.dims(values)
    at = [a for a, index in enumerate(indices) if index is not None]
    reason = f"{op.site} writes to positions by number"
    ctx.pin(op, *(dims[a] for a in at), why=reason)
    last = at[-1] + 1
    if at != list(range(at[0], last)):  # apart: what is indexed comes first in the values
        ctx.pin(op, *dims, *given, why=reason)
        return
    behind, trailing = dims[last:], given[max(len(given) - (len(dims) - last), 0) :]
    for mine, its in zip(behind[::-1], trailing[::-1], strict=False):
        ctx.labels.unify(mine, its, reason)
    ctx.pin(op, *given[: len(given) - len(trailing)], *dims[: at[0]], why=reason)
    ctx.set(op.outs[0], dims)


def index_fill(ctx: Context, op: Op) -> None:
    """``index_fill``, ``index_copy``, ``index_add``: one dimension by number, the others are the same in all."""
    x, axis = op.args[0], axis_of(op.args[1], op.args[0].ndim)
    _by_number(ctx, op, x, axis, [t for t in op.args[3:] if isinstance(t, Tensor) and t.ndim])


def scatter(ctx: Context, op: Op) -> None:
    """Positions of one dimension by number, chosen anew at every position of the others."""
    x, axis = op.args[0], axis_of(op.args[1], op.args[0].ndim)
    _by_number(ctx, op, x, axis, [t for t in op.args[2:] if isinstance(t, Tensor) and t.ndim])


def _by_number(ctx: Context, op: Op, x: Tensor, axis: int, others: list[Tensor]) -> None:
    reason = f"{op.site} writes to positions by number"
    dims: list[Dim] = ctx.dims(x)
    ctx.pin(op, dims[axis], why=reason)
    for other in others:
        for a, dim in enumerate(ctx.dims(other)):
            if a != axis and other.ndim == x.ndim and other.shape[a] == x.shape[a]:
                ctx.labels.unify(dims[a], dim, reason)
            else:
                ctx.pin(op, dim, *dims[a : a + 1], why=reason)
    ctx.set(op.outs[0], dims)


RULES: dict[str, Rule] = {
    **dict.fromkeys(("nonzero", "nonzero_static", "_unique2", "unique_dim", "unique_consecutive"), chosen_by_value),
    **dict.fromkeys(("torchvision::nms", "masked_select", "searchsorted", "bucketize", "aminmax"), chosen_by_value),
    "_local_scalar_dense": number,
    **dict.fromkeys(("value::numpy", "value::tolist", "value::__array__"), taken_out),
    "torchvision::roi_align": region_align,
    "index_put": index_put,
    "_unsafe_index_put": index_put,
    **dict.fromkeys(("index_fill", "index_copy", "index_add"), index_fill),
    **dict.fromkeys(("scatter", "scatter_add", "scatter_reduce"), scatter),
}
