"""Calls that fold channels into space and space into channels, or channels among themselves."""

from __future__ import annotations

from math import prod

from reconvene.structure.labels import rigid
from reconvene.structure.recording import Op
from reconvene.structure.rules.context import Context, Rule, because


def pixel_shuffle(ctx: Context, op: Op) -> None:
    """``C r r, h, w -> C, h r, w r``."""
    x, factor, out = op.args[0], op.args[1], op.outs[0]
    assert out is not None
    dims = ctx.dims(x)
    reason = because(op, "folds channels into space")
    channels, folded = ctx.labels.regroup([dims[-3]], [out.shape[-3], factor**2], reason)
    ctx.pin(op, folded)
    ctx.set(out, [*dims[:-3], channels, *(rigid(s) for s in out.shape[-2:])])


def pixel_unshuffle(ctx: Context, op: Op) -> None:
    """``C, h r, w r -> C r r, h, w``."""
    x, factor, out = op.args[0], op.args[1], op.outs[0]
    assert out is not None
    dims = ctx.dims(x)
    ctx.pin(op, *dims[-2:])
    ctx.set(out, [*dims[:-3], (*dims[-3], (factor**2, None)), *(rigid(s) for s in out.shape[-2:])])


def channel_shuffle(ctx: Context, op: Op) -> None:
    """``(groups, inner) -> (inner, groups)``."""
    x, groups = op.args[0], op.args[1]
    dims = list(ctx.dims(x))
    outer, inner = ctx.labels.regroup([dims[1]], [groups, x.shape[1] // groups], because(op, "has fixed groups"))
    ctx.pin(op, outer)  # the number of groups is written in the call: only whole rows across all groups can go
    dims[1] = (*inner, *outer)
    ctx.set(op.outs[0], dims)


def unfold_patches(ctx: Context, op: Op) -> None:
    """``im2col``: channels become ``(channel, kernel)``."""
    x, kernel, out = op.args[0], op.args[1], op.outs[0]
    assert out is not None
    dims = ctx.dims(x)
    ctx.pin(op, *dims[-2:])
    ctx.set(out, [*dims[:-3], (*dims[-3], *rigid(prod(kernel))), rigid(out.shape[-1])])


def fold_patches(ctx: Context, op: Op) -> None:
    """``col2im``: ``(channel, kernel)`` becomes channels."""
    x, kernel, out = op.args[0], op.args[2], op.outs[0]
    assert out is not None
    dims = ctx.dims(x)
    channels, patch = ctx.labels.regroup([dims[-2]], [out.shape[-3], prod(kernel)], because(op, "folds patches"))
    ctx.pin(op, patch)
    ctx.set(out, [*dims[:-2], channels, *(rigid(s) for s in out.shape[-2:])])


FOLD_RULES: dict[str, Rule] = {
    "pixel_shuffle": pixel_shuffle,
    "pixel_unshuffle": pixel_unshuffle,
    "channel_shuffle": channel_shuffle,
    "native_channel_shuffle": channel_shuffle,
    "im2col": unfold_patches,
    "col2im": fold_patches,
}
