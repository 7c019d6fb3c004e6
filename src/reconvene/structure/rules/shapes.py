"""Calls that move, cut and join positions without computing."""

from __future__ import annotations

import numpy as np

from reconvene.structure.labels import Dim, Vector, dimension_size, is_labelled, rigid
from reconvene.structure.recording import Op
from reconvene.structure.rules.context import Context, Rule, arg, axes_of, axis_of, because, with_dimensions


def view(ctx: Context, op: Op) -> None:
    """The same positions under another shape."""
    out = op.outs[0]
    assert out is not None
    ctx.set(
        out,
        ctx.labels.regroup(ctx.dims(op.args[0]), list(out.shape), because(op, "changes the shape of the dimension")),
    )
    ctx.same_source(op)


def permute(ctx: Context, op: Op) -> None:
    """``permute``, ``transpose``, ``t``, ``unsqueeze``, ``squeeze``: dimensions change places."""
    out = op.outs[0]
    assert out is not None
    dims = _permuted(op, list(ctx.dims(op.args[0])))
    if ctx.last_view.get(id(out)) == ctx.index and [dimension_size(dim) for dim in dims] != list(out.shape):
        # A call before this one was read with the shape that the tensor has only now.
        ctx.pin_all(op, because(op, "changes the shape of a tensor in place"))
        dims = [rigid(size) for size in out.shape]
    ctx.tensors[id(out)] = dims  # in place, the dimensions of the tensor itself get other names
    ctx.same_source(op)


def _permuted(op: Op, dims: list[Dim]) -> list[Dim]:
    rank = len(dims)  # tensor.ndim may differ: a later call may have changed the tensor in place
    name = op.func.overloadpacket.__name__.removesuffix("_")
    if name == "permute":
        dims = [dims[axis_of(a, rank)] for a in op.args[1]]
    elif name in ("transpose", "t") and rank > 1:
        first, second = (0, 1) if name == "t" else (axis_of(a, rank) for a in op.args[1:3])
        if max(first, second) < rank:
            dims[first], dims[second] = dims[second], dims[first]
    elif name == "unsqueeze":
        dims.insert(axis_of(op.args[1], rank + 1), ())
    elif name == "squeeze":
        dim_argument = arg(op, 1, "dim")
        # An empty list is no dimension here, not all of them.
        axes = [] if dim_argument == [] else axes_of(dim_argument, rank)
        dims = [dim for a, dim in enumerate(dims) if not (a in axes and dimension_size(dim) == 1)]
    return dims


def expand(ctx: Context, op: Op) -> None:
    """A repeated dimension has equal values everywhere: any index of it can go."""
    x, out = op.args[0], op.outs[0]
    assert out is not None
    new = out.ndim - x.ndim
    dims = ctx.dims(x)
    ctx.set(
        out,
        [
            dims[a - new] if a >= new and x.shape[a - new] == size else ctx.labels.fresh_dim(size)
            for a, size in enumerate(out.shape)
        ],
    )
    ctx.same_source(op)


def repeat(ctx: Context, op: Op) -> None:
    """Whole copies one behind the other: an outer fixed factor; copies of one position are all alike and can go."""
    x, counts = op.args[0], op.args[1]
    dims = [()] * (len(counts) - x.ndim) + list(ctx.dims(x))
    ctx.set(
        op.outs[0],
        [
            (*rigid(count), *dim) if dim else ctx.labels.fresh_dim(count)
            for count, dim in zip(counts, dims, strict=True)
        ],
    )


def concatenate(ctx: Context, op: Op) -> None:
    """Labels one behind the other; the other dimensions are the same in all."""
    parts = [t for t in op.args[0] if t.shape != (0,)]  # PyTorch lets an empty vector stand beside anything
    if not parts:
        ctx.set_like(op, op.args[0][0])
        return
    axis = axis_of(arg(op, 1, "dim", 0), parts[0].ndim)
    dims_by_part = [ctx.dims(t) for t in parts]
    dims = list(dims_by_part[0])
    for part_dims in dims_by_part[1:]:
        for a, (first_dim, part_dim) in enumerate(zip(dims, part_dims, strict=True)):
            if a != axis:
                ctx.labels.unify(first_dim, part_dim, because(op, "joins the dimension with one of fixed size"))
    dims[axis] = _joined(ctx, op, [d[axis] for d in dims_by_part], [t.shape[axis] for t in parts])
    ctx.set(op.outs[0], dims)
    ctx.same_source(op)


def _joined(ctx: Context, op: Op, pieces: list[Dim], sizes: list[int]) -> Dim:
    if not any(is_labelled(piece) for piece in pieces):
        return rigid(sum(sizes))
    vectors = [ctx.labels.flat(piece, op.site) for piece in pieces]
    if all(vector is None for vector in vectors):
        return rigid(sum(sizes))
    complete_vectors = [np.zeros(s, dtype=np.int64) if v is None else v for v, s in zip(vectors, sizes, strict=True)]
    return ((sum(sizes), np.concatenate(complete_vectors)),)


def stack(ctx: Context, op: Op) -> None:
    """A new fixed dimension; the others are the same in all."""
    parts = op.args[0]
    dims = list(ctx.dims(parts[0]))
    for part in parts[1:]:
        for first_dim, part_dim in zip(dims, ctx.dims(part), strict=True):
            ctx.labels.unify(first_dim, part_dim, because(op, "joins the dimension with one of fixed size"))
    axis = axis_of(arg(op, 1, "dim", 0), len(dims) + 1)
    ctx.set(op.outs[0], [*dims[:axis], rigid(len(parts)), *dims[axis:]])
    ctx.same_source(op)


def split(ctx: Context, op: Op) -> None:
    """Pieces take their share of the labels; equal pieces must stay equal, unequal ones stay whole."""
    x = op.args[0]
    axis = axis_of(arg(op, 2, "dim", 0), x.ndim)
    dims = ctx.dims(x)
    sizes = [out.shape[axis] for out in op.outs if out is not None]
    sizes_known = all(id(out) in ctx.known_cuts for out in op.outs)
    counted = all(id(out) in ctx.chunks for out in op.outs)
    vectors = _cut(ctx, op, dims[axis], sizes, sizes_known=sizes_known, counted=counted)
    for out, size, vector in zip(op.outs, sizes, vectors, strict=True):
        piece = rigid(size) if vector is None or size == 1 else ((size, vector),)
        ctx.set(out, [*dims[:axis], piece, *dims[axis + 1 :]])
    ctx.same_source(op)


def _cut(ctx: Context, op: Op, dim: Dim, sizes: list[int], *, sizes_known: bool, counted: bool) -> list[Vector | None]:
    labels = ctx.labels.flat(dim, op.site)
    if labels is None or len(sizes) == 1:
        return [labels] * len(sizes)
    pieces = np.split(labels, np.cumsum(sizes)[:-1])
    if sizes_known:
        return list(pieces)  # equations hold the pieces to the sizes the code gives
    if len(set(sizes)) == 1 and sizes[0] > 1:
        ctx.labels.pieces.append((pieces, because(op, "cuts the dimension into equal pieces")))
    elif counted and sizes[0] - sizes[-1] < len(sizes):
        # As much shorter as it is now, the last piece comes out of as many pieces again. Zeros stand for what it lacks.
        last = np.concatenate([pieces[-1], np.zeros(sizes[0] - sizes[-1], dtype=np.int64)])
        ctx.labels.pieces.append(
            ([*pieces[:-1], last], because(op, "cuts the dimension into pieces, the last one shorter"))
        )
    else:
        ctx.pin(op, dim, why=because(op, "cuts the dimension into unequal pieces"))
    return list(pieces)


def cut(ctx: Context, op: Op) -> None:
    """``slice``: the whole passes; one of several equal pieces must stay one; anything else needs all positions."""
    x, out = op.args[0], op.outs[0]
    assert out is not None
    axis = axis_of(arg(op, 1, "dim", 0), x.ndim)
    start, step = arg(op, 2, "start") or 0, arg(op, 4, "step", 1)
    dims, size, whole_size = list(ctx.dims(x)), out.shape[axis], x.shape[axis]
    start = min(start + whole_size if start < 0 else start, whole_size)
    if step > 1 and start < step and whole_size % step == 0:
        dims[axis] = _every(ctx, op, dims[axis], size, step)
    elif size != whole_size:
        labels = ctx.labels.flat(dims[axis], op.site)
        equal = step == 1 and size and whole_size % size == 0 and start % size == 0
        if labels is None or not (equal or (step == 1 and id(out) in ctx.known_cuts)):
            ctx.pin(op, dims[axis], why=because(op, "reads a fixed part of the dimension"))
            dims[axis] = rigid(size)
        else:
            if id(out) not in ctx.known_cuts:
                pieces = list(labels.reshape(-1, size))
                ctx.labels.pieces.append((pieces, because(op, "reads one of equal pieces of the dimension")))
            dims[axis] = () if size == 1 else ((size, labels[start : start + size]),)
    ctx.set(out, dims)
    ctx.same_source(op)


def _every(ctx: Context, op: Op, dim: Dim, rows: int, step: int) -> Dim:
    """``x[start::step]``: positions stand in rows of ``step``, and only whole rows can go, or others would be taken."""
    outer, inner = ctx.labels.regroup([dim], [rows, step], because(op, f"takes every {step} positions"))
    ctx.pin(op, inner, why=because(op, f"takes every {step} positions"))
    return outer


def select(ctx: Context, op: Op) -> None:
    """One position of a dimension by its number."""
    x = op.args[0]
    axis = axis_of(arg(op, 1, "dim", 0), x.ndim)
    dims = ctx.dims(x)
    ctx.pin(op, dims[axis], why=because(op, "reads one position of the dimension"))
    for out in op.outs:
        ctx.set(out, [dim for a, dim in enumerate(dims) if a != axis])
    ctx.same_source(op)


@with_dimensions
def windows(ctx: Context, op: Op) -> None:
    """``unfold``: windows slide over one dimension, which must be whole; what is in a window comes last."""
    x, out = op.args[0], op.outs[0]
    assert out is not None
    axis = axis_of(op.args[1], x.ndim)
    dims = ctx.dims(x)
    ctx.pin(op, dims[axis], why=because(op, "slides over the whole dimension"))
    ctx.set(out, [*dims[:axis], rigid(out.shape[axis]), *dims[axis + 1 :], rigid(out.shape[-1])])


def unbind(ctx: Context, op: Op) -> None:
    """Every position of a dimension on its own."""
    x = op.args[0]
    axis = axis_of(arg(op, 1, "dim", 0), x.ndim)
    dims = ctx.dims(x)
    ctx.pin(op, dims[axis], why=because(op, "separates the positions of the dimension"))
    for out in op.outs:
        ctx.set(out, [dim for a, dim in enumerate(dims) if a != axis])
    ctx.same_source(op)


def pad(ctx: Context, op: Op) -> None:
    """Constant padding: new positions are fixed, padded channels keep their labels."""
    x, amounts, out = op.args[0], op.args[1], op.outs[0]
    assert out is not None
    dims = list(ctx.dims(x))
    for back in range(len(amounts) // 2):
        before, after = amounts[2 * back], amounts[2 * back + 1]
        a = x.ndim - 1 - back
        if not before and not after:
            continue
        vector = ctx.labels.flat(dims[a], op.site)
        if vector is None or before < 0 or after < 0:
            ctx.pin(op, dims[a])
            dims[a] = rigid(out.shape[a])
        else:
            ends = [np.zeros(n, dtype=np.int64) for n in (before, after)]
            dims[a] = ((out.shape[a], np.concatenate([ends[0], vector, ends[1]])),)
    ctx.set(out, dims)


def restride(ctx: Context, op: Op) -> None:
    """``as_strided`` to the same shape changes the memory layout only; to another shape nothing is known."""
    out = op.outs[0]
    assert out is not None
    if tuple(out.shape) == tuple(op.args[0].shape):
        ctx.set_like(op, op.args[0])
    else:
        ctx.pin(op, *ctx.dims(op.args[0]))


_VIEW = "view _unsafe_view reshape _reshape_alias flatten unflatten view_as"
_PERMUTE = "permute transpose transpose_ t t_ unsqueeze unsqueeze_ squeeze squeeze_"

SHAPE_RULES: dict[str, Rule] = {
    **dict.fromkeys(_VIEW.split(), view),
    **dict.fromkeys(_PERMUTE.split(), permute),
    "as_strided": restride,
    "expand": expand,
    "repeat": repeat,
    "cat": concatenate,
    "stack": stack,
    **dict.fromkeys(("split", "split_with_sizes", "unsafe_split", "unsafe_split_with_sizes", "chunk"), split),
    "slice": cut,
    "select": select,
    "unbind": unbind,
    "unfold": windows,
    "constant_pad_nd": pad,
}
