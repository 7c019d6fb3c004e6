"""Mechanisms that see space as a row of tokens, or channels as one: attention, recurrence, mixing."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from support.random_blocks import Shape, depthwise


def tokens_of(x: Tensor) -> Tensor:
    return x.flatten(2).transpose(1, 2)


def image_of(tokens: Tensor, like: Tensor) -> Tensor:
    return tokens.transpose(1, 2).reshape(like.shape[0], -1, *like.shape[2:])


class Mixer(nn.Module):
    """Tokens mixed by linear layers over flattened space."""

    def __init__(self, shape: Shape, width: int) -> None:
        super().__init__()
        tokens = int(torch.Size(shape[1:]).numel())
        self.up, self.down = nn.Linear(tokens, width), nn.Linear(width, tokens)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(F.gelu(self.up(x.flatten(2)))).view_as(x)


class ConvNext(nn.Module):
    """Depthwise, then linear layers on channels last, then back."""

    def __init__(self, shape: Shape, width: int) -> None:
        super().__init__()
        self.depthwise = depthwise(shape, 3, 1)
        self.norm = nn.LayerNorm(shape[0])
        self.up, self.down = nn.Linear(shape[0], width), nn.Linear(width, shape[0])
        self.scale = nn.Parameter(torch.randn(shape[0]))

    def forward(self, x: Tensor) -> Tensor:
        y = self.depthwise(x).movedim(1, -1)
        y = self.scale * self.down(F.gelu(self.up(self.norm(y))))
        return x + y.movedim(-1, 1)


class Attention(nn.Module):
    """Self-attention over space; every size but the number of heads is read from the tensors."""

    def __init__(self, shape: Shape, heads: int, width: int, how: str) -> None:
        super().__init__()
        self.heads, self.how, channels = heads, how, shape[0]
        inner = heads * width
        if how == "separate":
            self.q, self.k, self.v = (nn.Linear(channels, inner) for _ in range(3))
        else:
            self.qkv = nn.Linear(channels, 3 * inner, bias=how != "chunk")
        self.proj = nn.Linear(inner, channels)

    def forward(self, x: Tensor) -> Tensor:
        tokens = tokens_of(x)
        batch, length, _ = tokens.shape
        if self.how == "joint":
            q, k, v = self.qkv(tokens).reshape(batch, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        else:
            if self.how == "separate":
                parts = (self.q(tokens), self.k(tokens), self.v(tokens))
            else:
                parts = self.qkv(tokens).chunk(3, -1)
            q, k, v = (part.view(batch, length, self.heads, -1).transpose(1, 2) for part in parts)
        if self.how == "fused":
            y = F.scaled_dot_product_attention(q, k, v)
        elif self.how == "scaled":
            y = (q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5).softmax(-1) @ v
        elif self.how == "rotary":
            y = F.scaled_dot_product_attention(_rotated(q), _rotated(k), v, scale=0.5)
        else:
            y = (0.5 * q @ k.transpose(-2, -1)).softmax(-1) @ v
        return x + image_of(self.proj(y.transpose(1, 2).reshape(batch, length, -1)), x)


def _rotated(x: Tensor) -> Tensor:
    """Rotary positions: the halves of each head turn into each other by an angle of the position alone."""
    angle = torch.arange(x.shape[-2]).to(x)[:, None]
    first, second = x.chunk(2, -1)
    return torch.cat([first * angle.cos() - second * angle.sin(), second * angle.cos() + first * angle.sin()], -1)


class KnownHeads(nn.Module):
    """Attention whose sizes are attributes: head count, head width, scale, as libraries write it."""

    def __init__(self, shape: Shape, heads: int, width: int, how: str) -> None:
        super().__init__()
        self.num_heads, self.head_dim, self.embed_dim = heads, width, heads * width
        self.scale = width**-0.5
        self.groups = 2 if how == "grouped" and heads % 2 == 0 else 1
        self.q = nn.Linear(shape[0], self.embed_dim)
        self.kv = nn.Linear(shape[0], 2 * self.embed_dim // self.groups)
        self.proj = nn.Linear(self.embed_dim, shape[0])
        self.bias = nn.Parameter(torch.randn(heads, 1, 1)) if how == "biased" else None

    def forward(self, x: Tensor) -> Tensor:
        tokens = tokens_of(x)
        batch, length, _ = tokens.shape
        q = self.q(tokens).view(batch, length, self.num_heads, self.head_dim).transpose(1, 2)
        shared = self.num_heads // self.groups
        kv = self.kv(tokens).view(batch, length, 2, shared, self.head_dim).permute(2, 0, 3, 1, 4)
        k, v = kv[0], kv[1]
        if self.groups > 1:
            k, v = k.repeat_interleave(self.groups, 1), v.repeat_interleave(self.groups, 1)
        scores = q @ k.transpose(-2, -1) * self.scale
        if self.bias is not None:
            scores = scores * self.bias
        y = (scores.softmax(-1) @ v).transpose(1, 2).reshape(batch, length, self.embed_dim)
        return x + image_of(self.proj(y), x)


class Encoder(nn.Module):
    """PyTorch's own attention and encoder layers on tokens with a class token and positions."""

    def __init__(self, shape: Shape, width: int, how: str) -> None:
        super().__init__()
        channels, length = shape[0], int(torch.Size(shape[1:]).numel())
        self.how, heads = how, 2 if channels % 2 == 0 else 1
        self.position = nn.Parameter(torch.randn(1, length + 1, channels))
        self.token = nn.Parameter(torch.randn(1, 1, channels))
        if how == "layer":
            self.inner: nn.Module = nn.TransformerEncoderLayer(channels, heads, width, batch_first=True)
        else:
            self.inner = nn.MultiheadAttention(channels, heads, batch_first=True)
            self.norm = nn.LayerNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        tokens = torch.cat([self.token.expand(x.shape[0], -1, -1), tokens_of(x)], 1) + self.position
        if self.how == "layer":
            tokens = self.inner(tokens)
        else:
            normed = self.norm(tokens)
            tokens = tokens + self.inner(normed, normed, normed, need_weights=self.how == "weights")[0]
        return image_of(tokens[:, 1:], x) * tokens[:, :1].transpose(1, 2).unflatten(2, [1] * (x.ndim - 2))


class Recurrent(nn.Module):
    """A recurrent layer over tokens."""

    def __init__(self, shape: Shape, width: int, kind: str) -> None:
        super().__init__()
        two = kind.endswith("2")
        make = {"lstm": nn.LSTM, "gru": nn.GRU, "rnn": nn.RNN}[kind.rstrip("2")]
        self.inner = make(shape[0], width, batch_first=True, bidirectional=two, num_layers=2 if two else 1)
        self.out = nn.Linear(width * (2 if two else 1), shape[0])

    def forward(self, x: Tensor) -> Tensor:
        return image_of(self.out(self.inner(tokens_of(x))[0]), x)


class Gram(nn.Module):
    """A channel by channel product of activations mixes the channels (efficient channel attention)."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(2)
        gram = flat @ flat.transpose(1, 2)
        if self.how == "softmax":
            gram = gram.softmax(-1)
        elif self.how == "einsum":
            gram = torch.einsum("bct,bdt->bcd", flat, torch.tanh(flat))
        return x + 0.1 * (gram @ flat).view_as(x)


class Windows(nn.Module):
    """Space cut into windows by views, mixed inside, and put back (Swin, MaxViT)."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.cut = shape[-1] % 2 == 0
        self.inner = nn.Linear(shape[0], shape[0])
        self.mix = nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        if not self.cut:
            return x
        batch, channels, *space, last = x.shape
        y = x.view(batch, channels, -1, last // 2, 2)
        y = self.mix(self.inner(y.permute(0, 2, 3, 4, 1)).transpose(-1, -2)).transpose(-1, -2)
        return y.permute(0, 4, 1, 2, 3).reshape(batch, -1, *space, last)
