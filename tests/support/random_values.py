"""Mechanisms that look at values or at widths: checks, branches, masks, literal sizes, numbers, differences, gates.

Code of this kind may be refused, by a named error only; it must never be silently wrong.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from support.random_blocks import Do, Shape, pointwise_conv
from support.random_oddities import With
from support.random_tokens import tokens_of


def valued(shape: Shape, name: str) -> nn.Module:
    return VALUED[name](shape)


def checked(x: Tensor, how: str) -> Tensor:
    """A check of values that changes nothing; behind it a network is recorded on real tensors."""
    if how == "nan" and x.isnan().any():
        raise ValueError("NaN")
    if how == "finite":
        assert torch.isfinite(x).all()
    if how == "item" and x.abs().max().item() > 1e9:
        return x.clamp(-1e9, 1e9)
    if how == "bool" and not bool((x < 1e9).all()):
        return x.clamp(-1e9, 1e9)
    return x


def _spread(vector: Tensor, x: Tensor) -> Tensor:
    """``[batch, channels]`` in the dimensions of ``x``."""
    return vector[(..., *[None] * (x.ndim - 2))]


def _mask_of_two_dimensions(self: Any, x: Tensor) -> Tensor:
    """Tokens chosen by a mask over batch and space go through a layer and are written back."""
    rows = tokens_of(x).clone()
    mask = torch.arange(rows.shape[1])[None] < torch.tensor([[rows.shape[1]], [1]])
    rows[mask] = self.layer(rows[mask])
    return rows.transpose(1, 2).reshape(x.shape)


def _tokens_by_mask(self: Any, x: Tensor) -> Tensor:
    """The mean over the tokens that a mask chooses, added to all."""
    rows = tokens_of(x)
    mask = self.choose(rows).squeeze(-1) > -1e9
    return x + _spread(rows[mask].mean(0, keepdim=True), x)


def _boolean_product(x: Tensor) -> Tensor:
    flat = x.flatten(2)
    scores = flat.transpose(1, 2) @ flat
    mask = scores.sigmoid() < 0.5
    mask = mask * (mask.sum(-1) != mask.shape[-1]).unsqueeze(-1)
    return (flat @ scores.masked_fill(mask, -1e4).softmax(-1)).view_as(x)


def _literal_view(x: Tensor, rows: int, columns: int) -> Tensor:
    """Both sizes are literal and the batch is what remains: a narrower tensor gives another batch."""
    return x.contiguous().view(-1, rows, columns, *x.shape[2:]).mean(2)


def _grouped(x: Tensor, per_group: int) -> Tensor:
    return F.group_norm(x, max(1, x.shape[1] // per_group))


def _siamese(self: Any, x: Tensor) -> Tensor:
    return self.layer(x).relu() - self.layer(x.flip(-1)).relu()


def _highway(self: Any, x: Tensor) -> Tensor:
    gate = torch.sigmoid(self.gate(x))
    return gate * self.layer(x).relu() + (1 - gate) * x


def _negative_scale(self: Any, x: Tensor) -> Tensor:
    return x + self.scale * self.layer(x)


def _size_equal_to_a_tensor(x: Tensor) -> Tensor:
    lengths = torch.tensor([1, x.shape[-1]])
    assert list(x.shape) == [len(x), x.shape[1], *x.shape[2:-1], lengths.max()], "sizes"
    return x


def _size_from_a_tensor(x: Tensor) -> Tensor:
    half = int(torch.tensor(x.shape[1]) // 2)
    return torch.cat([x[:, half:], x[:, :half]], 1)


def _view_by_a_tensor(x: Tensor) -> Tensor:
    size = torch.prod(torch.tensor(x.shape[1:]))
    return x + x.reshape(len(x), int(size)).mean(1)[(..., *[None] * (x.ndim - 1))]


def _lengths(x: Tensor) -> Tensor:
    """Positions past the length of each sample are zero, as with padded sequences."""
    lengths = torch.tensor([x.shape[-1], 1])
    mask = torch.arange(x.shape[-1])[None] >= lengths[:, None]
    return x.masked_fill(mask[(slice(None), *[None] * (x.ndim - 2))], 0.0)


def _loop(x: Tensor) -> Tensor:
    total = torch.zeros_like(x[:, :1])
    for channel in range(x.shape[1]):
        total = total + x[:, channel : channel + 1]
    return x + total


def _pairs(x: Tensor) -> Tensor:
    """A branch on whether the width is even."""
    if x.shape[1] % 2:
        return x
    return x.reshape(len(x), -1, 2, *x.shape[2:]).flip(2).reshape(x.shape)


def _square(shape: Shape) -> Any:
    return pointwise_conv(shape, shape[0])


VALUED: dict[str, Callable[[Shape], nn.Module]] = {
    # checks inside a network, and numbers that are read off values
    "check": lambda s: Do(checked, "nan"),
    "assert": lambda s: Do(checked, "finite"),
    "item branch": lambda s: Do(lambda x: x.relu() if x.abs().max().item() >= 0 else x.tanh()),
    "item scale": lambda s: Do(lambda x: x / (x.abs().max().item() + 1)),
    # masks
    "mask of the batch": lambda s: Do(lambda x: x[x.flatten(1).sum(1) > -1e9]),
    "mask of two dimensions": lambda s: With(_mask_of_two_dimensions, layer=nn.Linear(s[0], s[0])),
    "tokens by mask": lambda s: With(_tokens_by_mask, choose=nn.Linear(s[0], 1)),
    "masked values": lambda s: Do(lambda x: x * 0.5 + x[x > 0].sum() * 0.01),
    "filled below": lambda s: Do(lambda x: x.masked_fill(x < -0.5, 0.0)),
    "filled by a mean": lambda s: Do(lambda x: x.masked_fill(x.mean(1, keepdim=True) > 0, 0.25)),
    "boolean product": lambda s: Do(_boolean_product),
    # literal sizes
    "last four": lambda s: Do(lambda x: x + x[:, -4:].sum(1, keepdim=True)),
    "first three": lambda s: Do(lambda x: x + x[:, :3].mean(1, keepdim=True)),
    "middle": lambda s: Do(lambda x: x + x.narrow(1, 1, 2).amax(1, keepdim=True)) if s[0] > 2 else nn.Identity(),
    "literal view": lambda s: Do(_literal_view, s[0] // 2, 2) if s[0] % 2 == 0 else nn.Identity(),
    "literal fours": lambda s: Do(_literal_view, 4, s[0] // 4) if s[0] % 4 == 0 else nn.Identity(),
    # branches on widths
    "wide branch": lambda s: Do(lambda x, limit: x.relu() if x.shape[1] > limit else x.tanh(), 0.7 * s[0]),
    "narrow branch": lambda s: Do(lambda x, limit: x.tanh() if x.size(1) <= limit else x * 2, s[0] // 2),
    "even branch": lambda s: Do(_pairs),
    "loop": lambda s: Do(_loop),
    # numbers made of widths
    "root": lambda s: Do(lambda x: x / math.sqrt(x.shape[1])),
    "logarithm": lambda s: Do(lambda x: x * math.log(x.shape[1] + 1)),
    "root as an end": lambda s: Do(lambda x: x + x[:, : int(math.sqrt(x.shape[1]))].sum(1, keepdim=True)),
    "groups by width": lambda s: Do(_grouped, 2) if s[0] % 2 == 0 else nn.Identity(),
    # differences
    "siamese": lambda s: With(_siamese, layer=_square(s)),
    "less another": lambda s: With(lambda m, x: m.one(x) - m.other(x), one=_square(s), other=_square(s)),
    "less log-sum-exp": lambda s: Do(lambda x: x - x.logsumexp(1, keepdim=True)),
    "less the largest": lambda s: Do(lambda x: x - x.amax(1, keepdim=True)),
    # gates
    "closed gate": lambda s: With(
        lambda m, x: (1 - torch.sigmoid(m.gate(x))) * m.layer(x).relu(), gate=_square(s), layer=_square(s)
    ),
    "highway": lambda s: With(_highway, gate=_square(s), layer=_square(s)),
    "one less tanh": lambda s: Do(lambda x: x * (1 - torch.tanh(x))),
    # scales below zero
    "negative scale": lambda s: With(
        _negative_scale, layer=_square(s), scale=nn.Parameter(-torch.rand(1, s[0], *[1] * (len(s) - 1)) - 0.1)
    ),
    "negative gain": lambda s: With(lambda m, x: x * m.gain, gain=nn.Parameter(torch.tensor(-0.8))),
    # sizes and tensors
    "size equal to a tensor": lambda s: Do(_size_equal_to_a_tensor),
    "size from a tensor": lambda s: Do(_size_from_a_tensor),
    "view by a tensor": lambda s: Do(_view_by_a_tensor),
    "lengths": lambda s: Do(_lengths),
    "scale from a tensor": lambda s: Do(lambda x: x / torch.tensor(float(x.shape[1])).sqrt().item()),
}
