"""Networks whose neurons keep state in each of the ways that libraries use."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

X = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def fire(mem: Tensor) -> Tensor:
    return (mem > 0.5).to(mem.dtype) + torch.sigmoid(4 * (mem - 0.5)) - torch.sigmoid(4 * (mem - 0.5)).detach()


class NoneMembrane(nn.Module):
    """State in an attribute that begins as nothing, as most people write it."""

    def __init__(self) -> None:
        super().__init__()
        self.mem: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self.mem is None:
            self.mem = torch.zeros_like(x)
        self.mem = 0.8 * self.mem + x
        spikes = fire(self.mem)
        self.mem = self.mem - 0.5 * spikes
        return spikes


class ShapedMembrane(nn.Module):
    """State in a buffer that is not saved, made anew for another shape (snnTorch's way)."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mem", torch.zeros(0), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        if self.mem.shape != x.shape:
            self.mem = torch.zeros_like(x)
        self.last = self.mem.detach()
        self.mem = 0.8 * self.mem + x
        return fire(self.mem)


class MemoryTable(nn.Module):
    """State in a table of memories, with a method that resets them (SpikingJelly's way)."""

    def __init__(self) -> None:
        super().__init__()
        self.memories: dict[str, Any] = {"v": 0.25}

    def reset(self) -> None:
        self.memories["v"] = 0.25

    def forward(self, x: Tensor) -> Tensor:
        self.memories["v"] = 0.8 * self.memories["v"] + x
        return fire(self.memories["v"])


class BroadcastMembrane(nn.Module):
    """State in a buffer that begins as one zero."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mem", torch.zeros(1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        self.mem = 0.8 * self.mem + x
        return fire(self.mem)


class Cache(nn.Module):
    """State in a list that grows, and a counter."""

    def __init__(self) -> None:
        super().__init__()
        self.cache: list[Tensor] = []
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.cache.append(x)
        return fire(torch.stack(self.cache[-2:]).mean(0))


NEURONS = [NoneMembrane, ShapedMembrane, MemoryTable, BroadcastMembrane, Cache]


class Net(nn.Module):
    def __init__(self, neuron: Callable[[], nn.Module], steps: int = 3) -> None:
        super().__init__()
        self.conv1, self.norm, self.fire1 = nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), neuron()
        self.conv2, self.fire2 = nn.Conv2d(16, 24, 3, padding=1), neuron()
        self.head, self.steps = nn.Linear(24, 5), steps

    def forward(self, x: Tensor) -> Tensor:
        total = x.new_zeros(())
        for _ in range(self.steps):
            h = self.fire1(self.norm(self.conv1(x)))
            total = total + self.head(self.fire2(self.conv2(h)).mean((2, 3)))
        return total


def built(neuron: Callable[[], nn.Module], **options: Any) -> Net:
    torch.manual_seed(0)
    return Net(neuron, **options).eval()
