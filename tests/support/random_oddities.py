"""Mechanisms in one line or two: a table of small modules that networks hold here and there."""

from __future__ import annotations

from collections.abc import Callable
from math import gcd
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from support.random_blocks import CONVOLUTIONS, INSTANCE_NORMS, Do, Shape, pointwise_conv

_FUNCTIONAL: dict[int, Any] = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


class With(nn.Module):
    """Layers and a function of them and the input."""

    def __init__(self, function: Callable[..., Tensor], **layers: Any) -> None:
        super().__init__()
        self.function = function
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)


def odd(shape: Shape, name: str) -> nn.Module:
    return ODDITIES[name](shape)


def _conv(shape: Shape, width: int | None = None, **kwargs: Any) -> Any:
    return CONVOLUTIONS[len(shape) - 1](shape[0], width or shape[0], 3, padding=1, **kwargs)


def _weight(shape: Shape) -> nn.Parameter:
    return nn.Parameter(0.3 * torch.randn(shape[0] + 2, shape[0], *[1] * (len(shape) - 1)))


def _standardised(self: Any, x: Tensor) -> Tensor:
    weight = self.weight.flatten(1)
    weight = (weight - weight.mean(1, keepdim=True)) / (weight.std(1, keepdim=True, correction=0) + 0.1)
    return _FUNCTIONAL[x.ndim - 2](x, weight.view_as(self.weight))


def _selective(self: Any, x: Tensor) -> Tensor:
    """Selective kernels: branches weighed by a softmax over branches, channel by channel."""
    branches = torch.stack([self.left(x), self.right(x)], 1)
    weights = self.choose(branches.sum(1).flatten(2).mean(2)).view(x.shape[0], 2, -1).softmax(1)
    return (branches * weights.view(*weights.shape, *[1] * (x.ndim - 2))).sum(1)


def _res2net(self: Any, x: Tensor) -> Tensor:
    pieces = list(self.first(x).chunk(4, 1))
    for n in range(1, 4):
        pieces[n] = self.convs[n - 1](pieces[n] + pieces[n - 1])
    return torch.cat(pieces, 1)


def _efficient(self: Any, x: Tensor) -> Tensor:
    """Efficient channel attention: a convolution that slides over the channels."""
    gate = self.slide(x.flatten(2).mean(2)[:, None])[:, 0]
    return x * torch.sigmoid(gate)[(..., *[None] * (x.ndim - 2))]


def _response(self: Any, x: Tensor) -> Tensor:
    """Global response normalisation of ConvNeXt V2."""
    size = x.flatten(2).norm(dim=2)
    share = size / (size.mean(1, keepdim=True) + 0.1)
    return x + self.gamma * (x * share[(..., *[None] * (x.ndim - 2))]) + self.beta


def _per_sample(self: Any, x: Tensor) -> Tensor:
    """Dynamic convolution: every sample has its own mixture of kernels, run as groups of one convolution."""
    batch, channels = x.shape[:2]
    mixture = self.route(x.flatten(2).mean(2)).softmax(1)
    weight = (mixture @ self.kernels.flatten(1)).view(-1, *self.kernels.shape[2:])
    y = _FUNCTIONAL[x.ndim - 2](x.reshape(1, batch * channels, *x.shape[2:]), weight, groups=batch)
    return y.view(batch, -1, *x.shape[2:])


def _written(self: Any, x: Tensor) -> Tensor:
    """Part of a tensor is changed in place."""
    y = self.conv(x)
    half = y.shape[1] // 2
    y[:, :half] += y[:, half : 2 * half] * 0.5
    return y


def _ghost(self: Any, x: Tensor) -> Tensor:
    primary = self.primary(x)
    return torch.cat([primary, self.cheap(primary)], 1)[:, : self.wanted]


def _column(shape: Shape, value: Tensor | None = None) -> nn.Parameter:
    return nn.Parameter((torch.randn(shape[0]) if value is None else value).view(1, -1, *[1] * (len(shape) - 1)))


def _table(shape: Shape) -> With:
    module = With(lambda self, x: x + self.table)
    module.register_buffer("table", torch.randn(1, *shape))
    return module


def _turned(shape: Shape) -> With:
    """A linear layer over channels and one axis of space flattened together."""
    size = shape[0] * shape[1]

    def forward(self: Any, x: Tensor) -> Tensor:
        y = self.linear(x.flatten(1, 2).movedim(1, -1)).movedim(-1, 1)
        return y.unflatten(1, (-1, x.shape[2]))

    return With(forward, linear=nn.Linear(size, 4 * shape[1]))


ODDITIES: dict[str, Callable[[Shape], nn.Module]] = {
    "weight norm": lambda s: nn.utils.parametrizations.weight_norm(_conv(s, 6)),
    "weight standardised": lambda s: With(_standardised, weight=_weight(s)),
    "functional": lambda s: With(lambda m, x: _FUNCTIONAL[x.ndim - 2](x, m.weight * 2), weight=_weight(s)),
    "transposed weight": lambda s: With(
        lambda m, x: F.linear(x.movedim(1, -1), m.weight.t()).movedim(-1, 1), weight=nn.Parameter(torch.randn(s[0], 6))
    ),
    "einsum": lambda s: With(
        lambda m, x: torch.einsum("bc...,cd->bd...", x, m.weight), weight=nn.Parameter(torch.randn(s[0], 6))
    ),
    "selective": lambda s: With(_selective, left=_conv(s, 6), right=_conv(s, 6), choose=nn.Linear(6, 12)),
    "res2net": lambda s: With(
        _res2net, first=_conv(s, 8), convs=nn.ModuleList(pointwise_conv((2, *s[1:]), 2) for _ in range(3))
    ),
    "efficient": lambda s: With(_efficient, slide=nn.Conv1d(1, 1, 3, padding=1)),
    "response": lambda s: With(_response, gamma=_column(s), beta=_column(s)),
    "dynamic": lambda s: With(
        _per_sample, route=nn.Linear(s[0], 2), kernels=nn.Parameter(torch.randn(2, 6, *_weight(s).shape[1:]))
    ),
    "written": lambda s: With(_written, conv=_conv(s, 8)),
    "ghost": lambda s: With(
        _ghost, primary=pointwise_conv(s, 4), cheap=pointwise_conv((4, *s[1:]), 4, groups=4), wanted=7
    ),
    "maxout": lambda s: With(
        lambda m, x: m.conv(x).view(x.shape[0], -1, 2, *x.shape[2:]).amax(2), conv=pointwise_conv(s, 8)
    ),
    "maxout outer": lambda s: With(
        lambda m, x: m.conv(x).view(x.shape[0], 2, -1, *x.shape[2:]).amax(1), conv=pointwise_conv(s, 8)
    ),
    "literal": lambda s: Do(lambda x, c: x.view(x.shape[0], c, -1).view(x.shape[0], c, *x.shape[2:]), s[0]),
    "unequal": lambda s: With(
        lambda m, x: torch.cat([m.one(m.conv(x)[:, :3]), m.conv(x)[:, 3:]], 1),
        conv=pointwise_conv(s, 8),
        one=pointwise_conv((3, *s[1:]), 3),
    ),
    "thirds": lambda s: With(
        lambda m, x: (lambda a, b, c: a * b + c)(*m.conv(x).chunk(3, 1)), conv=pointwise_conv(s, 12)
    ),
    "rest": lambda s: With(lambda m, x: torch.cat(m.conv(x).chunk(3, 1)[1:], 1), conv=pointwise_conv(s, 8)),
    "reversed": lambda s: Do(torch.flip, [1]),
    "rolled": lambda s: Do(torch.roll, 1, 1),
    "cumulative": lambda s: Do(torch.cumsum, 1),
    "picked": lambda s: Do(lambda x, i: x[:, i], [n for n in range(s[0]) if n != 1 or s[0] == 1]),
    "every other": lambda s: Do(lambda x: x[:, ::2]),
    "ramp": lambda s: Do(lambda x: x * torch.arange(x.shape[1]).to(x)[(None, slice(None), *[None] * (x.ndim - 2))]),
    "local response": lambda s: nn.LocalResponseNorm(3),
    "table": _table,
    "turned": _turned,
    "scalar": lambda s: With(lambda m, x: x * m.gain, gain=nn.Parameter(torch.tensor(0.7))),
    "broadcast scale": lambda s: With(lambda m, x: x * m.gain, gain=nn.Parameter(torch.randn(1))),
    "memory format": lambda s: Do(
        lambda x: x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x.contiguous()
    ),
    "doubled": lambda s: Do(lambda x: torch.cat([x, -x], 1)),
    "difference": lambda s: Do(lambda x: torch.cat([x[:, 1:] - x[:, :-1], x[:, :1]], 1)),
    "grouped norm of parts": lambda s: nn.Sequential(
        With(lambda m, x: torch.cat([x, m.more(x)], 1), more=pointwise_conv(s, s[0])),
        nn.GroupNorm(gcd(2 * s[0], 4), 2 * s[0]),
    ),
    "twice normed": lambda s: With(
        lambda m, x: m.norm(x) + m.norm(x * 2),
        norm=INSTANCE_NORMS[len(s) - 1](s[0], affine=True) if max(s[1:]) > 1 else nn.Identity(),
    ),
    "unfold": lambda s: (
        With(lambda m, x: m.mix(F.unfold(x, 3, padding=1)).unflatten(2, x.shape[2:]), mix=nn.Conv1d(9 * s[0], 6, 1))
        if len(s) == 3
        else nn.Identity()
    ),
    "outer product": lambda s: With(
        lambda m, x: (m.left(x)[:, :, None] * m.right(x)[:, None]).flatten(1, 2),
        left=pointwise_conv(s, 4),
        right=pointwise_conv(s, 2),
    ),
    "sorted": lambda s: Do(lambda x: x.sort(1).values),
    "channel mean": lambda s: Do(lambda x: torch.cat([x, x.mean(1, keepdim=True)], 1)),
    "statistics": lambda s: Do(
        lambda x: x * x.flatten(2).var(2, correction=0).sqrt().add(0.1)[(..., *[None] * (x.ndim - 2))]
    ),
    "bilinear": lambda s: With(
        lambda m, x: m.inner(x.movedim(1, -1), x.movedim(1, -1)).movedim(-1, 1), inner=nn.Bilinear(s[0], s[0], 4)
    ),
    "straight through": lambda s: Do(lambda x: x + (x.round() - x).detach() * 0.1),
}
