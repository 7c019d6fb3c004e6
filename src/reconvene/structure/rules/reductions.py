"""Calls whose value at one position depends on others: norms, means, softmax, sorting."""

from __future__ import annotations

from torch import Tensor

from reconvene.structure.labels import Dim, is_labelled, rigid
from reconvene.structure.recording import Op
from reconvene.structure.rules.context import Context, Rule, arg, axes_of, axis_of, because, named_argument


def batch_norm(ctx: Context, op: Op) -> None:
    """Affine parameters and statistics belong to the channels; each channel stands alone."""
    dims = ctx.dims(op.args[0])
    channels = dims[1]
    for vector in op.args[1:5]:
        if isinstance(vector, Tensor) and vector.ndim == 1 and vector.shape[0] == op.args[0].shape[1]:
            ctx.labels.unify(channels, ctx.dims(vector)[0], because(op, "has fixed statistics"))
    if any(is_labelled(dim) for dim in (dims[0], *dims[2:])):
        ctx.restrict()  # weight standardisation by batch norm: statistics over the input channels of a weight
    parameters = [t for t in op.args[1:5] if isinstance(t, Tensor) and id(t) in ctx.weights]
    if parameters:
        # Instance norm folds the batch in front of the channels, and compares its input with the attribute itself.
        ctx.attribute(op, "num_features", ctx.dims(parameters[0])[0])
    elif op.args[0].shape[0] > 1:
        ctx.attribute(op, "num_features", channels)
    ctx.set(op.outs[0], dims)
    for statistic in op.outs[1:]:
        if statistic is not None and statistic.numel():
            ctx.set(statistic, [channels])


def layer_norm(ctx: Context, op: Op) -> None:
    """The normalised dimensions meet the affine parameters; the statistics depend on how many channels there are."""
    x, shape = op.args[0], op.args[1]
    dims = ctx.dims(x)
    normalised = dims[len(dims) - len(shape) :]
    for parameter in op.args[2:4]:
        if isinstance(parameter, Tensor):
            for input_dim, parameter_dim in zip(normalised, ctx.dims(parameter), strict=True):
                ctx.labels.unify(input_dim, parameter_dim, because(op, "has fixed affine parameters"))
    if any(is_labelled(dim) for dim in normalised):
        ctx.restrict({1: normalised})
    for position, dim in enumerate(normalised):
        ctx.attribute(op, f"normalized_shape[{position}]", dim)
    ctx.set(op.outs[0], dims)
    for statistic in op.outs[1:]:
        ctx.set(statistic, [*dims[: len(dims) - len(shape)], *[()] * len(shape)])


def group_norm(ctx: Context, op: Op) -> None:
    """Channels split into (groups, inner): the statistics run over the inner axis."""
    x, weight, bias = op.args[0], arg(op, 1, "weight"), arg(op, 2, "bias")
    channels, groups = op.args[4], op.args[6]
    dims = ctx.dims(x)
    reason = because(op, "has fixed groups")
    outer, _ = ctx.labels.regroup([dims[1]], [groups, channels // groups], reason)
    for parameter in (weight, bias):
        if isinstance(parameter, Tensor):
            ctx.labels.unify(dims[1], ctx.dims(parameter)[0], reason)
    ctx.restrict({4: dims[1], 6: outer})
    ctx.attribute(op, "num_channels", dims[1])
    ctx.attribute(op, "num_groups", outer)
    ctx.set(op.outs[0], dims)
    for statistic in op.outs[1:]:
        ctx.set(statistic, [dims[0], outer])


def weight_norm(ctx: Context, op: Op) -> None:
    """``g * v / |v|``: the norm runs over all dimensions of ``v`` but one, and a silenced row has none."""
    v, g, axis = op.args[0], op.args[1], axis_of(arg(op, 2, "dim", 0), op.args[0].ndim)
    dims = ctx.dims(v)
    ctx.labels.unify(dims[axis], ctx.dims(g)[axis], because(op, "has a fixed norm"))
    if any(is_labelled(dim) for dim in dims):
        ctx.restrict()
    ctx.set(op.outs[0], dims)
    ctx.set(op.outs[1], [dim if a == axis else () for a, dim in enumerate(dims)])
    ctx.weights.add(id(op.outs[0]))


def reduce(ctx: Context, op: Op) -> None:
    """Mean, sum, norm, maximum over dimensions: what is reduced disappears, what stays passes."""
    x = op.args[0]
    dims = ctx.dims(x)
    axes = axes_of(named_argument(op, "dim"), x.ndim)
    if any(is_labelled(dims[a]) for a in axes):
        ctx.restrict()
    for out in op.outs:
        if out is None:
            continue
        if out.ndim == x.ndim:
            ctx.set(out, [() if a in axes else dim for a, dim in enumerate(dims)])
        else:
            ctx.set(out, [dim for a, dim in enumerate(dims) if a not in axes])


def whole_axis(ctx: Context, op: Op) -> None:
    """Softmax, cumulative sums, sorting, rolling: each position of the axis needs all others."""
    x = op.args[0]
    dims = list(ctx.dims(x))
    axes = axes_of(named_argument(op, "dim", named_argument(op, "dims")), x.ndim)
    for a in axes:
        ctx.pin(op, dims[a])
        dims[a] = rigid(x.shape[a])
    for out in op.outs:
        if out is None:
            continue
        if out.ndim == x.ndim:
            ctx.set(out, [rigid(s) if a in axes else d for a, (s, d) in enumerate(zip(out.shape, dims, strict=True))])
        else:
            ctx.set(out, [d for a, d in enumerate(dims) if a not in axes])


def triangle(ctx: Context, op: Op) -> None:
    """Masks over the last two dimensions depend on the position."""
    dims = list(ctx.dims(op.args[0]))
    ctx.pin(op, *dims[-2:])
    ctx.set(op.outs[0], [*dims[:-2], *(rigid(s) for s in op.args[0].shape[-2:])])


def glu(ctx: Context, op: Op) -> None:
    """The first half is gated by the second: both lose the same channels."""
    x = op.args[0]
    dims: list[Dim] = list(ctx.dims(x))
    axis = axis_of(arg(op, 1, "dim", -1), x.ndim)
    labels = ctx.labels.flat(dims[axis], op.site)
    half = x.shape[axis] // 2
    if labels is not None:
        ctx.labels.unions.append((labels[:half], labels[half:]))
    dims[axis] = rigid(half) if labels is None else ((half, labels[:half]),)
    ctx.set(op.outs[0], dims)


_REDUCE = (
    "mean sum amax amin prod var std var_mean std_mean linalg_vector_norm norm logsumexp any all max min nansum median "
    "nanmean count_nonzero"
)
_WHOLE = "_softmax _log_softmax _safe_softmax softmax cumsum cumprod sort topk flip roll argmax argmin argsort kthvalue"

REDUCTION_RULES: dict[str, Rule] = {
    **dict.fromkeys(_REDUCE.split(), reduce),
    **dict.fromkeys(_WHOLE.split(), whole_axis),
    "native_batch_norm": batch_norm,
    "_native_batch_norm_legit": batch_norm,
    "_native_batch_norm_legit_no_training": batch_norm,
    "cudnn_batch_norm": batch_norm,
    "native_layer_norm": layer_norm,
    "_fused_rms_norm": layer_norm,
    "native_group_norm": group_norm,
    "_weight_norm_interface": weight_norm,
    "tril": triangle,
    "triu": triangle,
    "glu": glu,
}
