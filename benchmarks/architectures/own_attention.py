"""Small nets of our own that work on sequences: recurrence, attention in every spelling, tied embeddings."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Recurrent(nn.Module):
    """A convolution over time, an LSTM or GRU, and a linear layer on its last state."""

    def __init__(self, kind: type[nn.RNNBase], *, layers: int = 2, bidirectional: bool = False) -> None:
        super().__init__()
        self.stem = nn.Conv1d(4, 16, 3, padding=1)
        self.mix = nn.Conv1d(16, 24, 3, padding=1)
        self.rnn = kind(24, 20, num_layers=layers, batch_first=True, bidirectional=bidirectional)
        self.head = nn.Sequential(nn.Linear(40 if bidirectional else 20, 32), nn.ReLU(), nn.Linear(32, 5))

    def forward(self, x: Tensor) -> Tensor:
        """``[batch, 4, time]`` to class scores."""
        x = F.relu(self.mix(F.relu(self.stem(x)))).transpose(1, 2)
        return self.head(self.rnn(x)[0][:, -1])


class Block(nn.Module):
    """A pre-norm residual block around an attention module."""

    def __init__(self, attention: nn.Module, dim: int) -> None:
        super().__init__()
        self.norm1, self.attention, self.norm2 = nn.LayerNorm(dim), attention, nn.LayerNorm(dim)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))

    def forward(self, x: Tensor) -> Tensor:
        """Add attention, then the two linear layers."""
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class Library(nn.Module):
    """``nn.MultiheadAttention`` on itself."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.inner = nn.MultiheadAttention(dim, heads, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        """Attend over all positions."""
        return self.inner(x, x, x, need_weights=False)[0]


class Fused(nn.Module):
    """Attention by hand as timm writes it: one projection, reshaped to ``3 x heads x dim``, unbound."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.num_heads, self.head_dim, self.scale = heads, dim // heads, (dim // heads) ** -0.5
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Attend over all positions."""
        batch, length, dim = x.shape
        q, k, v = self.qkv(x).reshape(batch, length, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4).unbind(0)
        weights = (q * self.scale @ k.transpose(-2, -1)).softmax(dim=-1)
        return self.proj((weights @ v).transpose(1, 2).reshape(batch, length, dim))


class GroupedQuery(nn.Module):
    """Separate projections, fewer key and value heads than query heads, the library's scaled dot product."""

    def __init__(self, dim: int, heads: int, shared: int) -> None:
        super().__init__()
        self.heads, self.shared, self.head_dim = heads, shared, dim // heads
        self.q = nn.Linear(dim, dim, bias=False)
        self.k = nn.Linear(dim, shared * self.head_dim, bias=False)
        self.v = nn.Linear(dim, shared * self.head_dim, bias=False)
        self.out = nn.Linear(dim, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Attend over all positions."""
        batch, length, _ = x.shape
        q = self.q(x).view(batch, length, -1, self.head_dim).transpose(1, 2)
        k = self.k(x).view(batch, length, -1, self.head_dim).transpose(1, 2)
        v = self.v(x).view(batch, length, -1, self.head_dim).transpose(1, 2)
        repeat = self.heads // self.shared
        k, v = k.repeat_interleave(repeat, dim=1), v.repeat_interleave(repeat, dim=1)
        mixed = F.scaled_dot_product_attention(q, k, v)
        return self.out(mixed.transpose(1, 2).reshape(batch, length, -1))


class Einsum(nn.Module):
    """Attention written with ``einsum`` and split by ``chunk``."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.out = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Attend over all positions."""
        q, k, v = (part.unflatten(-1, (self.heads, -1)) for part in self.qkv(x).chunk(3, dim=-1))
        weights = torch.einsum("bihd,bjhd->bhij", q, k).div(q.shape[-1] ** 0.5).softmax(-1)
        return self.out(torch.einsum("bhij,bjhd->bihd", weights, v).flatten(2))


class Patches(nn.Module):
    """A small vision transformer around any attention."""

    def __init__(self, make: type[nn.Module], *sizes: int, dim: int = 32, depth: int = 2) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, dim, 4, 4)
        self.place = nn.Parameter(torch.zeros(1, 16, dim))
        self.blocks = nn.Sequential(*(Block(make(dim, *sizes), dim) for _ in range(depth)))
        self.norm, self.head = nn.LayerNorm(dim), nn.Linear(dim, 5)

    def forward(self, x: Tensor) -> Tensor:
        """``[batch, 3, 16, 16]`` to class scores."""
        x = self.embed(x).flatten(2).transpose(1, 2) + self.place
        return self.head(self.norm(self.blocks(x)).mean(1))


class TiedLanguage(nn.Module):
    """A language model whose output weights are its embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(50, 32)
        self.blocks = nn.Sequential(Block(Fused(32, 4), 32), Block(Fused(32, 4), 32))
        self.norm, self.head = nn.LayerNorm(32), nn.Linear(32, 50, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens: Tensor) -> Tensor:
        """Token numbers to scores over tokens."""
        return self.head(self.norm(self.blocks(self.embed(tokens))))


class Mixer(nn.Module):
    """Linear layers over positions and over channels in turn."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, 32, 4, 4)
        self.norm1, self.norm2 = nn.LayerNorm(32), nn.LayerNorm(32)
        self.across = nn.Sequential(nn.Linear(16, 24), nn.GELU(), nn.Linear(24, 16))
        self.within = nn.Sequential(nn.Linear(32, 64), nn.GELU(), nn.Linear(64, 32))
        self.head = nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        """``[batch, 3, 16, 16]`` to class scores."""
        x = self.embed(x).flatten(2).transpose(1, 2)
        x = x + self.across(self.norm1(x).transpose(1, 2)).transpose(1, 2)
        x = x + self.within(self.norm2(x))
        return self.head(x.mean(1))
