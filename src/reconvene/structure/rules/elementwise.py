"""Calls that compute position by position, and constants."""

from __future__ import annotations

from torch import Tensor

from reconvene.structure.labels import Dim, is_labelled, rigid
from reconvene.structure.recording import Op
from reconvene.structure.rules.context import Context, Rule, because


def pointwise(ctx: Context, op: Op) -> None:
    """Broadcast dimensions of all operands are the same channels."""
    everything = op.tensors
    operands = [t for t in everything if t.ndim]
    for out in op.outs:
        if out is not None:
            ctx.set(out, _broadcast(ctx, op, operands, out))
    # Less its mean, a weight of a removed channel is no longer zero, though the channel is gone.
    if ctx.of_weights(everything) and any(is_labelled(dim) for t in operands for dim in ctx.dims(t)):
        ctx.restrict()


def _broadcast(ctx: Context, op: Op, operands: list[Tensor], out: Tensor) -> list[Dim]:
    operand_dims = [ctx.dims(t) for t in operands]
    dims: list[Dim] = []
    for back in range(1, out.ndim + 1):
        size = out.shape[-back]
        same = [
            d[-back] for d, t in zip(operand_dims, operands, strict=True) if t.ndim >= back and t.shape[-back] == size
        ]
        if size == 1 or not same:
            dims.append(rigid(size))
            continue
        for dim in same[1:]:
            ctx.labels.unify(same[0], dim, because(op, "mixes the dimension with one of fixed size"))
        dims.append(next((d for d in same if is_labelled(d)), same[0]))
    return dims[::-1]


def like(ctx: Context, op: Op) -> None:
    """The output has the shape of the first operand, whatever its values."""
    ctx.set_like(op, op.args[0])


def constant(ctx: Context, op: Op) -> None:
    """A tensor whose values do not depend on the position: any index of it can go."""
    for out in op.outs:
        if out is not None:
            ctx.set(out, [ctx.labels.fresh_dim(size) for size in out.shape])


def fixed(ctx: Context, op: Op) -> None:
    """A tensor whose values depend on the position (``arange``): nothing of it can go."""
    ctx.set_fixed(op)


def spatial(ctx: Context, op: Op) -> None:
    """Pooling, resizing, spatial padding: batch and channels pass, every dimension whose size changes must be fixed."""
    x = op.args[0]
    dims = ctx.dims(x)
    for out in op.outs:
        if out is None:
            continue
        result = []
        for position, size in enumerate(out.shape):
            # Only the trailing dimensions are spatial: three of them at most, behind the channels.
            mixes = position >= max(x.ndim - 3, 1) and (size != x.shape[position] or position >= 2)
            if mixes:
                ctx.pin(op, dims[position])
            result.append(rigid(size) if mixes else dims[position])
        ctx.set(out, result)


_POINTWISE = (
    "relu hardswish hardswish_ hardsigmoid hardtanh fill_ fill copy_ copy clone contiguous _to_copy to alias detach "
    "lift_fresh masked_fill where _prelu_kernel prelu rrelu leaky_relu elu celu selu silu gelu mish softplus "
    "hardshrink softshrink threshold log_sigmoid_forward native_dropout dropout bernoulli bernoulli_ dropout_ clamp "
    "uniform_ normal_ random_ exponential_ floor_divide rsub copysign "
    "lerp_ addcmul_ addcdiv_ feature_dropout alpha_dropout nan_to_num isfinite isnan zero_ logical_not rrelu_with_noise"
)
_CONSTANT = (
    "zeros ones full empty rand randn zeros_like ones_like full_like empty_like rand_like randn_like new_zeros "
    "new_ones new_full new_empty scalar_tensor empty_strided new_empty_strided"
)
_FIXED = "arange linspace eye tril_indices triu_indices lift_fresh_copy randperm randint logspace hann_window"
_SPATIAL = (
    "max_pool2d_with_indices avg_pool2d _adaptive_avg_pool2d adaptive_max_pool2d max_pool3d_with_indices avg_pool3d "
    "_adaptive_avg_pool3d adaptive_max_pool3d adaptive_avg_pool2d adaptive_avg_pool3d avg_pool1d adaptive_avg_pool1d "
    "max_pool1d upsample_nearest1d upsample_nearest2d upsample_nearest3d upsample_bilinear2d upsample_bicubic2d "
    "upsample_linear1d upsample_trilinear3d _upsample_nearest_exact1d _upsample_nearest_exact2d "
    "_upsample_bilinear2d_aa _upsample_bicubic2d_aa reflection_pad1d reflection_pad2d reflection_pad3d "
    "replication_pad1d replication_pad2d replication_pad3d"
)

ELEMENTWISE_RULES: dict[str, Rule] = {
    **dict.fromkeys(_POINTWISE.split(), pointwise),
    **dict.fromkeys(_CONSTANT.split(), constant),
    **dict.fromkeys(_FIXED.split(), fixed),
    **dict.fromkeys(_SPATIAL.split(), spatial),
}
for _name in ("zeros_like", "ones_like", "full_like", "empty_like", "rand_like", "randn_like", "bernoulli"):
    ELEMENTWISE_RULES[_name] = like
