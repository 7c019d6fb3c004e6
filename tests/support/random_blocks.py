"""The mechanisms random networks are made of: one module each, on tensors ``[batch, channels, *space]``."""

from __future__ import annotations

from collections.abc import Callable
from math import gcd
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Shape = tuple[int, ...]
"""Channels and space, without the batch."""
CONVOLUTIONS: dict[int, Any] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
TRANSPOSED: dict[int, Any] = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
BATCH_NORMS: dict[int, Any] = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
INSTANCE_NORMS: dict[int, Any] = {1: nn.InstanceNorm1d, 2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}


class Do(nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable[..., Tensor], *args: Any, **kwargs: Any) -> None:
        super().__init__()
        self.function, self.args, self.kwargs = function, args, kwargs

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x, *self.args, **self.kwargs)


def resized(x: Tensor, like: Tensor) -> Tensor:
    """``x`` in the space of ``like``, so that branches of any stride meet."""
    return x if x.shape[2:] == like.shape[2:] else F.interpolate(x, size=like.shape[2:])


def pointwise_conv(shape: Shape, width: int, **kwargs: Any) -> nn.Module:
    return CONVOLUTIONS[len(shape) - 1](shape[0], width, 1, **kwargs)


def conv(
    shape: Shape, width: int, kernel: int, stride: int, dilation: int, mode: str, groups: int, bias: bool
) -> nn.Module:
    """Any convolution that fits: kernel and dilation shrink on small spaces, groups to a common divisor."""
    smallest = min(shape[1:])
    kernel = kernel if smallest >= 3 else 1
    dilation = dilation if smallest >= dilation * (kernel - 1) + 1 else 1
    padding = dilation * (kernel - 1) // 2
    if mode == "valid":
        mode, padding = "zeros", 0
    return CONVOLUTIONS[len(shape) - 1](
        shape[0],
        width,
        kernel,
        stride,
        padding=padding,
        dilation=dilation,
        groups=gcd(groups, shape[0], width),
        bias=bias,
        padding_mode=mode if padding else "zeros",
    )


def depthwise(shape: Shape, kernel: int, multiplier: int) -> nn.Module:
    return CONVOLUTIONS[len(shape) - 1](
        shape[0],
        shape[0] * multiplier,
        kernel,
        padding=kernel // 2,
        groups=shape[0],
    )


def transposed(shape: Shape, width: int, stride: int, groups: int) -> nn.Module:
    if max(shape[1:]) > 8:
        stride = 1
    return TRANSPOSED[len(shape) - 1](shape[0], width, stride, stride, groups=gcd(groups, shape[0], width))


class ChannelsLast(nn.Module):
    """A module that wants channels last, between two permutations."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x.movedim(1, -1)).movedim(-1, 1)


def norm(shape: Shape, kind: str, affine: bool) -> nn.Module:
    channels, dims = shape[0], len(shape) - 1
    if kind == "instance" and all(size == 1 for size in shape[1:]):
        kind = "batch"
    if kind == "batch":
        return BATCH_NORMS[dims](channels, affine=affine)
    if kind == "instance":
        return INSTANCE_NORMS[dims](channels, affine=affine)
    if kind == "instance-stats":
        return INSTANCE_NORMS[dims](channels, affine=affine, track_running_stats=True)
    if kind.startswith("group"):
        return nn.GroupNorm(gcd(int(kind[5:]), channels), channels, affine=affine)
    if kind == "layer-all":
        return nn.LayerNorm(shape, elementwise_affine=affine)
    return ChannelsLast({"layer": nn.LayerNorm, "rms": nn.RMSNorm}[kind](channels, elementwise_affine=affine))


ACTIVATIONS: dict[str, Callable[[int], nn.Module]] = {
    "relu": lambda c: nn.ReLU(),
    "relu_": lambda c: nn.ReLU(inplace=True),
    "gelu": lambda c: nn.GELU(),
    "sigmoid": lambda c: nn.Sigmoid(),
    "hardswish_": lambda c: nn.Hardswish(inplace=True),
    "prelu": lambda c: nn.PReLU(c),
    "prelu-one": lambda c: nn.PReLU(),
    "dropout": lambda c: nn.Dropout(0.3),
    "dropout2d": lambda c: nn.Dropout2d(0.3),
    "softplus": lambda c: nn.Softplus(),
    "cosine": lambda c: Do(torch.cos),
}


def activation(shape: Shape, kind: str) -> nn.Module:
    return ACTIVATIONS["dropout" if kind == "dropout2d" and len(shape) != 3 else kind](shape[0])


def pool(shape: Shape, kind: str) -> nn.Module:
    dims = len(shape) - 1
    if min(shape[1:]) < 2:
        return nn.Identity()
    if kind == "adaptive":
        return Do({1: F.adaptive_avg_pool1d, 2: F.adaptive_avg_pool2d, 3: F.adaptive_avg_pool3d}[dims], 2)
    kinds: dict[str, dict[int, Any]] = {
        "max": {1: nn.MaxPool1d, 2: nn.MaxPool2d, 3: nn.MaxPool3d},
        "average": {1: nn.AvgPool1d, 2: nn.AvgPool2d, 3: nn.AvgPool3d},
    }
    return kinds[kind][dims](2)


def resize(shape: Shape, kind: str) -> nn.Module:
    if max(shape[1:]) > 8:
        return Do(F.interpolate, size=[4] * (len(shape) - 1))
    if kind == "linear":
        mode = {1: "linear", 2: "bilinear", 3: "trilinear"}[len(shape) - 1]
        return Do(F.interpolate, scale_factor=2, mode=mode, align_corners=False)
    return Do(F.interpolate, scale_factor=2)


class Gated(nn.Module):
    """Twice the width, one half gates the other; the halves are taken in different ways."""

    def __init__(self, shape: Shape, width: int, how: str) -> None:
        super().__init__()
        self.proj, self.how = pointwise_conv(shape, 2 * width), how

    def forward(self, x: Tensor) -> Tensor:
        x = self.proj(x)
        if self.how == "glu":
            return F.glu(x, 1)
        if self.how == "split":
            value, gate = x.split(x.shape[1] // 2, 1)
        elif self.how == "slice":
            half = x.shape[1] // 2
            value, gate = x[:, :half], x[:, half:]
        elif self.how == "view":
            pair = x.view(x.shape[0], 2, -1, *x.shape[2:])
            value, gate = pair[:, 0], pair[:, 1]
        elif self.how == "unbind":
            value, gate = x.unflatten(1, (-1, 2)).unbind(2)
        else:
            value, gate = x.chunk(2, 1)
        return value * torch.sigmoid(gate)


class Squeeze(nn.Module):
    """Squeeze and excite, by convolutions or by linear layers between views."""

    def __init__(self, shape: Shape, width: int, how: str) -> None:
        super().__init__()
        self.how = how
        make: Any = nn.Linear if how == "linear" else CONVOLUTIONS[len(shape) - 1]
        extra = () if how == "linear" else (1,)
        self.down, self.up = make(shape[0], width, *extra), make(width, shape[0], *extra)

    def forward(self, x: Tensor) -> Tensor:
        space = tuple(range(2, x.ndim))
        if self.how == "linear":
            gate = self.up(F.relu(self.down(x.mean(space))))
            return x * torch.sigmoid(gate).view(x.shape[0], x.shape[1], *[1] * len(space))
        gate = torch.sigmoid(self.up(F.relu(self.down(x.mean(space, keepdim=True)))))
        return x.mul(gate.expand_as(x)) if self.how == "expand" else x * gate


class Shuffle(nn.Module):
    """Channel shuffle, by views with sizes read from the tensor or by the layer."""

    def __init__(self, groups: int, how: str) -> None:
        super().__init__()
        self.groups, self.how = groups, how
        self.layer = nn.ChannelShuffle(groups)

    def forward(self, x: Tensor) -> Tensor:
        if self.how == "module":
            return self.layer(x)
        batch, channels, *space = x.shape
        x = x.view(batch, self.groups, channels // self.groups, *space).transpose(1, 2)
        return x.flatten(1, 2) if self.how == "flatten" else x.contiguous().view(batch, -1, *space)


def shuffle(shape: Shape, groups: int, how: str) -> nn.Module:
    return Shuffle(gcd(groups, shape[0]), how)


def pixels(shape: Shape, how: str) -> nn.Module:
    """Channels folded into space or space into channels; needs two dimensions and sizes that fit."""
    if len(shape) != 3:
        return nn.Identity()
    if how == "unshuffle":
        return nn.PixelUnshuffle(2) if all(s % 2 == 0 for s in shape[1:]) and shape[0] <= 8 else nn.Identity()
    if max(shape[1:]) > 8:
        return nn.Identity()
    before = nn.Identity() if shape[0] % 4 == 0 else pointwise_conv(shape, 8)
    return nn.Sequential(before, nn.PixelShuffle(2))


class PaddedShortcut(nn.Module):
    """ResNet option A: a strided shortcut whose missing channels are zeros."""

    def __init__(self, shape: Shape, extra: int, how: str) -> None:
        super().__init__()
        self.body = CONVOLUTIONS[len(shape) - 1](shape[0], shape[0] + 2 * extra, 3, 2, 1)
        self.extra, self.how = extra, how

    def forward(self, x: Tensor) -> Tensor:
        short = x[(slice(None), slice(None), *[slice(None, None, 2)] * (x.ndim - 2))]
        if self.how == "pad":
            short = F.pad(short, [0, 0] * (x.ndim - 2) + [self.extra, self.extra])
        else:
            zeros = x.new_zeros(x.shape[0], self.extra, *short.shape[2:])
            short = torch.cat([zeros, short, zeros], 1)
        return F.relu(self.body(x) + short)


class SpaceGate(nn.Module):
    """Statistics over channels gate the space (CBAM), or divide it (unit vectors)."""

    def __init__(self, shape: Shape, how: str) -> None:
        super().__init__()
        self.how = how
        self.mix = CONVOLUTIONS[len(shape) - 1](2, 1, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        if self.how == "cbam":
            return x * torch.sigmoid(self.mix(torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], 1)))
        if self.how == "max":
            spread = x.std(1, keepdim=True, correction=0)
            return x * torch.sigmoid(self.mix(torch.cat([x.max(1, keepdim=True).values, spread], 1)))
        if self.how == "unit":
            return F.normalize(x, dim=1, eps=0.1)
        if self.how == "centre":
            return x - x.mean(1, keepdim=True)
        if self.how == "counted":
            return x - x.sum(1, keepdim=True) / x.shape[1]
        return x / (x.abs().sum(1, keepdim=True) + 1)


class Softmax(nn.Module):
    """Softmax over channels, or over space."""

    def __init__(self, over: str) -> None:
        super().__init__()
        self.over = over

    def forward(self, x: Tensor) -> Tensor:
        return x.softmax(1) if self.over == "channels" else x.flatten(2).softmax(-1).view_as(x)


class LayerScale(nn.Module):
    """A parameter per channel, multiplied in one of its usual shapes."""

    def __init__(self, shape: Shape, how: str) -> None:
        super().__init__()
        self.how = how
        flat = torch.randn(shape[0])
        self.scale = nn.Parameter(flat if how == "view" else flat.view(1, -1, *[1] * (len(shape) - 1)))

    def forward(self, x: Tensor) -> Tensor:
        return x * (self.scale.view(1, -1, *[1] * (x.ndim - 2)) if self.how == "view" else self.scale)


class Twice(nn.Module):
    """One set of weights used twice: the same module, or two modules that share a parameter."""

    def __init__(self, shape: Shape, how: str) -> None:
        super().__init__()
        self.how = how
        self.first = CONVOLUTIONS[len(shape) - 1](shape[0], shape[0], 3, padding=1)
        self.second = self.first
        if how == "tied":
            self.second = CONVOLUTIONS[len(shape) - 1](shape[0], shape[0], 3, padding=1)
            self.second.weight = self.first.weight
        elif how == "transposed":
            self.second = TRANSPOSED[len(shape) - 1](shape[0], shape[0], 3, padding=1)
            self.second.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.second(F.relu(self.first(x)))


class Interleave(nn.Module):
    """Two branches stacked in a new dimension and flattened, summed, or joined with a constant."""

    def __init__(self, shape: Shape, width: int, how: str) -> None:
        super().__init__()
        self.how = how
        self.left, self.right = pointwise_conv(shape, width), pointwise_conv(shape, width)

    def forward(self, x: Tensor) -> Tensor:
        left, right = self.left(x), self.right(x)
        if self.how == "sum":
            return torch.stack([left, right]).sum(0)
        if self.how == "inner":
            return torch.stack([left, right], 2).flatten(1, 2)
        if self.how == "outer":
            return torch.stack([left, right], 1).flatten(1, 2)
        if self.how == "constant":
            return torch.cat([left, torch.ones_like(x[:, :1]), right], 1)
        if self.how == "minimum":
            return torch.minimum(left, right)
        if self.how == "where":
            return torch.where(left > 0, left, right)
        return left.repeat(1, 2, *[1] * (x.ndim - 2)) * 0.5


class Padded(nn.Module):
    """Space padded, rolled, flipped or cut: nothing happens to the channels."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how

    def forward(self, x: Tensor) -> Tensor:
        if self.how == "pad":
            return F.pad(x, [1, 0])
        if self.how == "roll":
            return x.roll(1, -1)
        if self.how == "flip":
            return x.flip(-1)
        if self.how == "replicate":
            return F.pad(x, [1, 1] * min(x.ndim - 2, 2) + [0, 0] * (x.ndim - 4), mode="replicate")
        return x[..., 1:] if x.shape[-1] > 1 else x


# The blocks that hold others.


class Residual(nn.Module):
    def __init__(self, shape: Shape, body: nn.Module, out: Shape, projection: bool, how: str) -> None:
        super().__init__()
        self.body, self.how = body, how
        self.short = pointwise_conv(shape, out[0], bias=False) if projection or out[0] != shape[0] else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y = self.body(x)
        short = resized(self.short(x), y)
        if self.how == "in-place":
            y = y * 1
            y += short
            return y
        if self.how == "multiply":
            return y * torch.sigmoid(short)
        return F.relu(short + y) if self.how == "relu" else y.add(short, alpha=0.5)


class Concat(nn.Module):
    def __init__(self, branches: list[nn.Module], identity: bool) -> None:
        super().__init__()
        self.branches, self.identity = nn.ModuleList(branches), identity

    def forward(self, x: Tensor) -> Tensor:
        outs = [branch(x) for branch in self.branches]
        if self.identity:
            outs.append(x)
        return torch.cat([resized(out, outs[0]) for out in outs], 1)


class Dense(nn.Module):
    """DenseNet: every layer reads all that came before."""

    def __init__(self, shape: Shape, growth: int, depth: int) -> None:
        super().__init__()
        dims = len(shape) - 1
        widths = [shape[0] + growth * n for n in range(depth)]
        self.norms = nn.ModuleList(BATCH_NORMS[dims](width) for width in widths)
        self.convs = nn.ModuleList(CONVOLUTIONS[dims](width, growth, 3, padding=1) for width in widths)

    def forward(self, x: Tensor) -> Tensor:
        features = [x]
        for norm_layer, layer in zip(self.norms, self.convs, strict=True):
            features.append(layer(F.relu(norm_layer(torch.cat(features, 1)))))
        return torch.cat(features, 1)


class Halves(nn.Module):
    """ShuffleNetV2: the halves of the channels go different ways and are joined again."""

    def __init__(self, left: nn.Module, right: nn.Module, how: str) -> None:
        super().__init__()
        self.left, self.right, self.how = left, right, how

    def forward(self, x: Tensor) -> Tensor:
        half = x.shape[1] // 2
        if self.how == "slice":
            left, right = x[:, :half], x[:, half:]
        elif self.how == "narrow":
            left, right = x.narrow(1, 0, half), x.narrow(1, half, half)
        elif self.how == "split":
            left, right = torch.split(x, [half, half], 1)
        elif self.how == "tensor_split":
            left, right = x.tensor_split(2, 1)
        else:
            left, right = x.chunk(2, 1)
        left, right = self.left(left), self.right(right)
        right = resized(right, left)
        if self.how == "buffer":
            y = left.new_zeros(left.shape[0], left.shape[1] + right.shape[1], *left.shape[2:])
            y[:, : left.shape[1]] = left
            y[:, left.shape[1] :] = right
            return y
        return torch.cat([left, right], 1)
