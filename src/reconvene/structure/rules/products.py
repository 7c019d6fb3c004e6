"""Convolutions and matrix products: the contraction couples producer and consumer."""

from __future__ import annotations

from torch import Tensor

from reconvene.structure.labels import Dim, dimension_size, is_labelled, rigid
from reconvene.structure.recording import Op
from reconvene.structure.rules.context import Context, Rule, arg, because


def _convolution(ctx: Context, op: Op) -> None:
    """Input channels meet the weight; grouped ones through the split of both sides (depthwise falls out)."""
    x, weight = op.args[0], op.args[1]
    bias = arg(op, 2, "bias")
    transposed, groups = bool(arg(op, 6, "transposed", False)), int(arg(op, 8, "groups", 1))
    dims, w = ctx.dims(x), ctx.dims(weight)
    for kernel_dim in w[2:]:
        ctx.labels.pin(kernel_dim, "")  # nobody expects a kernel to be pruned, so no reason is listed
    space = _space(ctx, op, dims[2:], weight)
    reason = because(op, "reads a fixed input")
    if transposed:
        w_in, w_out = w[0], w[1]
        out_channels = w_out if groups == 1 else _transposed_grouped(ctx, op, dims[1], weight, groups)
        if groups == 1:
            ctx.labels.unify(dims[1], w_in, reason)
    else:
        w_in, out_channels = w[1], w[0]
        if groups == 1:
            ctx.labels.unify(dims[1], w_in, reason)
        else:
            _grouped(ctx, op, dims[1], weight, groups)
    if isinstance(bias, Tensor):
        ctx.labels.unify(out_channels, ctx.dims(bias)[0], reason)
    ctx.attribute(op, "in_channels", dims[1])
    ctx.attribute(op, "out_channels", out_channels)
    out = op.outs[0]
    assert out is not None
    ctx.set(out, [dims[0], out_channels, *space])
    spread = dims[2:] if transposed else space
    kernel = [rigid(s) for s in weight.shape[2:]]
    in_channels = w_in if not transposed else dims[1]
    ctx.products.append((ctx.index, [dims[0], w[1] if transposed else out_channels, in_channels, *spread, *kernel]))


def _space(ctx: Context, op: Op, dims: list[Dim], weight: Tensor) -> list[Dim]:
    """Spatial dimensions of the output: a kernel of one passes a dimension on, any other slides over all of it."""
    out = op.outs[0]
    assert out is not None
    space: list[Dim] = []
    for axis, dim in enumerate(dims):
        # Stride and padding may be given once for all dimensions.
        stride, padding = ([*value, *[value[-1]] * axis][axis] for value in (op.args[3], op.args[4]))
        if weight.shape[2 + axis] == 1 and stride == 1 and padding == 0:
            space.append(dim)
        else:
            ctx.pin(op, dim, why=because(op, "slides over the whole dimension"))
            space.append(rigid(out.shape[2 + axis]))
    return space


def _grouped(ctx: Context, op: Op, channels: Dim, weight: Tensor, groups: int) -> None:
    """Input ``(g, i)``, weight ``(g, o), i``: the group axis is shared, the inner axes are each their own."""
    labels, reason = ctx.labels, because(op, "has fixed groups")
    w_out, w_in = ctx.dims(weight)[:2]
    outer, inner = labels.regroup([channels], [groups, weight.shape[1]], reason)
    w_outer, _ = labels.regroup([w_out], [groups, weight.shape[0] // groups], reason)
    labels.unify(outer, w_outer, reason)
    labels.unify(inner, w_in, reason)
    ctx.attribute(op, "groups", outer)


def _transposed_grouped(ctx: Context, op: Op, channels: Dim, weight: Tensor, groups: int) -> Dim:
    """Weight ``(g, i), o``: the output has the channels ``(g, o)``."""
    labels, reason = ctx.labels, because(op, "has fixed groups")
    w_in, w_out = ctx.dims(weight)[:2]
    labels.unify(channels, w_in, reason)
    outer, _ = labels.regroup([w_in], [groups, weight.shape[0] // groups], reason)
    ctx.attribute(op, "groups", outer)
    return (*outer, *w_out)


def matrix_product(ctx: Context, op: Op) -> None:
    """``[..., m, k] @ [..., k, n]``: the contracted dimension is one, leading dimensions are one."""
    _product(ctx, op, op.args[0], op.args[1])


def added_product(ctx: Context, op: Op) -> None:
    """``bias + a @ b``."""
    out = _product(ctx, op, op.args[1], op.args[2])
    bias = ctx.dims(op.args[0])
    for out_dim, bias_dim in zip(out[::-1], bias[::-1], strict=False):
        ctx.labels.unify(out_dim, bias_dim, because(op, "reads a fixed input"))


def _product(ctx: Context, op: Op, a: Tensor, b: Tensor) -> list[Dim]:
    first, second = ctx.dims(a), ctx.dims(b)
    contracted = second[-2] if b.ndim > 1 else second[-1]
    reason = because(op, "reads a fixed input")
    ctx.labels.unify(first[-1], contracted, reason)
    for first_dim, second_dim in zip(first[:-2], second[:-2], strict=False):
        ctx.labels.unify(first_dim, second_dim, reason)
        for _, labels in (*first_dim, *second_dim):
            if labels is not None:
                ctx.labels.heads.append(labels)
    batch = [
        first_dim if is_labelled(first_dim) else second_dim
        for first_dim, second_dim in zip(first[:-2], second[:-2], strict=False)
    ]
    rows = [first[-2]] if a.ndim > 1 else []
    columns = [second[-1]] if b.ndim > 1 else []
    out = [*batch, *rows, *columns]
    ctx.set(op.outs[0], out)
    ctx.products.append((ctx.index, [*out, contracted]))
    if not ctx.weights & {id(a), id(b)} and (is_labelled(first[-1]) or is_labelled(contracted)):
        ctx.restrict()  # two activations: a removed channel may carry a constant instead of zero
    return out


def _linear(ctx: Context, op: Op) -> None:
    """``x @ weight.T + bias`` as one call."""
    x, weight = op.args[0], op.args[1]
    bias = arg(op, 2, "bias")
    dims, w = ctx.dims(x), ctx.dims(weight)
    reason = because(op, "reads a fixed input")
    ctx.labels.unify(dims[-1], w[1], reason)
    if isinstance(bias, Tensor):
        ctx.labels.unify(w[0], ctx.dims(bias)[0], reason)
    out = [*dims[:-1], w[0]]
    ctx.set(op.outs[0], out)
    ctx.products.append((ctx.index, [*out, w[1]]))


def attention(ctx: Context, op: Op) -> None:
    """Fused scaled dot product attention: batch and heads are shared, query and key contract, value gives the width."""
    q, k, v = (ctx.dims(t) for t in op.args[:3])
    reason = because(op, "reads a fixed input")
    for query, key, value in zip(q[:-2], k[:-2], v[:-2], strict=True):
        ctx.labels.unify(query, key, reason)
        ctx.labels.unify(query, value, reason)
        ctx.labels.heads += [labels for _, labels in query if labels is not None]
    ctx.labels.unify(q[-1], k[-1], reason)
    ctx.labels.unify(k[-2], v[-2], reason)
    ctx.pin(op, k[-2])
    # The scale is the head width to the power of minus one half, so the head width decides every value.
    ctx.restrict()
    ctx.pin(op, q[-1], why=because(op, "scales by the head width"))
    out = [*q[:-1], v[-1]]
    ctx.set(op.outs[0], out)
    for extra in op.outs[1:]:
        if extra is not None:
            ctx.set(extra, [rigid(s) for s in extra.shape])
    ctx.products.append((ctx.index, [*q[:-1], q[-1], k[-2]]))
    ctx.products.append((ctx.index, [*out, k[-2]]))


def grouped_product(ctx: Context, op: Op) -> None:
    """Products of experts: rows ``[tokens, k]`` sorted by expert times ``[experts, k, n]``, or ``k`` or ``n`` grouped.

    ``offs`` says where each expert's part of the grouped dimension ends, so all of that dimension is needed. The
    kernels read rows of whole 16 bytes: channels that lie side by side in memory leave together.
    """
    a, b, out = op.args[0], op.args[1], op.outs[0]
    assert out is not None
    first, second = ctx.dims(a), ctx.dims(b)
    reason = because(op, "reads a fixed input")
    ctx.labels.unify(first[-1], second[-2], reason)
    for tensor, dims in ((a, first), (b, second)):
        _whole_rows(ctx, op, dims[-1 if tensor.stride(-1) == 1 else -2], 16 // tensor.element_size())
    grouped = because(op, "reads parts of the dimension by number")
    if a.ndim == b.ndim == 3:  # a plain batch
        ctx.labels.unify(first[0], second[0], reason)
        result = [first[0], first[1], second[2]]
    elif a.ndim == 2 and b.ndim == 3:
        ctx.pin(op, first[0], second[0], why=grouped)
        result = [rigid(out.shape[0]), second[2]]
    elif b.ndim == 2 and a.ndim == 3:
        ctx.pin(op, first[0], second[1], why=grouped)
        result = [first[1], rigid(out.shape[1])]
    else:
        ctx.pin(op, first[1], second[0], why=grouped)
        result = [rigid(out.shape[0]), first[0], second[1]]
    ctx.set(out, result)
    ctx.products.append((ctx.index, [*(result if a.ndim != 2 or b.ndim != 2 else result[1:]), first[-1]]))
    if not ctx.weights & {id(a), id(b)} and is_labelled(first[-1]):
        ctx.restrict()


def _whole_rows(ctx: Context, op: Op, dim: Dim, block: int) -> None:
    """Positions ``block * i`` up to the next such number leave together."""
    if block > 1 and is_labelled(dim) and dimension_size(dim) % block == 0:
        reason = because(op, f"reads {block} neighbours at once")
        _, inner = ctx.labels.regroup([dim], [dimension_size(dim) // block, block], reason)
        ctx.pin(op, inner, why=reason)


PRODUCT_RULES: dict[str, Rule] = {
    "convolution": _convolution,
    "convolution_overrideable": _convolution,
    "mm": matrix_product,
    "bmm": matrix_product,
    "mv": matrix_product,
    "dot": matrix_product,
    "vdot": matrix_product,
    "matmul": matrix_product,
    "addmm": added_product,
    "baddbmm": added_product,
    "linear": _linear,
    "_grouped_mm": grouped_product,
    "transformers::grouped_mm_fallback": grouped_product,
    "_scaled_dot_product_flash_attention_for_cpu": attention,
    "_scaled_dot_product_flash_attention": attention,
    "_scaled_dot_product_efficient_attention": attention,
    "_scaled_dot_product_fused_attention_overrideable": attention,
    "scaled_dot_product_attention": attention,
}
