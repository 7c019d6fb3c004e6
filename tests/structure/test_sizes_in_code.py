"""Sizes that code computes, keeps or writes down: what must shrink with them does, and nothing else is kept."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import rms_norm

from reconvene.structure import Structure
from support.proof import prove


def proved(model: nn.Module, inputs: Tensor) -> tuple[Structure, nn.Module]:
    structure, _, small = prove(model, inputs)
    for ratio, seed in ((0.75, 1), (0.2, 2)):
        prove(model, inputs, ratio=ratio, seed=seed)
    return structure, small


class NormOfItsOwn(nn.Module):
    """A norm that keeps its shape in a tuple and calls a function that it imported by name (timm.layers.RmsNorm)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.normalized_shape, self.weight = (width,), nn.Parameter(torch.rand(width))

    def forward(self, x: Tensor) -> Tensor:
        return rms_norm(x, self.normalized_shape, self.weight, 1e-6)


def test_a_norm_function_imported_by_name_follows_its_tuple() -> None:
    model = nn.Sequential(nn.Linear(5, 8), NormOfItsOwn(8), nn.Linear(8, 2))
    structure, small = proved(model, torch.randn(3, 5))
    assert not structure.repairs and small[1].normalized_shape == (4,)


class Windows(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 8, 1), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        windows = self.stem(x).unfold(2, 4, 2).unfold(-2, 3, 1)
        return self.head((windows * windows.amax(-1, keepdim=True)).flatten(2).mean(-1))


def test_windows_leave_channels_alone() -> None:
    structure, _ = proved(Windows(), torch.randn(2, 3, 8, 8))
    assert len(structure.prunable) == 1 and not structure.unknown


class UnevenChunks(nn.Module):
    """Res2Net-like scales of a width that three does not divide (EdgeNeXt)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 16, 1), nn.Conv2d(16, 2, 1)
        self.convs = nn.ModuleList(nn.Conv2d(6, 6, 3, padding=1, groups=6) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        first, second, third = self.stem(x).chunk(3, dim=1)
        first = self.convs[0](first)
        return self.head(torch.cat([first, self.convs[1](first + second), third], 1))


def test_the_last_of_several_chunks_stays_as_much_shorter_as_it_is() -> None:
    structure, small = proved(UnevenChunks(), torch.randn(2, 3, 4, 4))
    assert not structure.repairs and small.stem.out_channels % 3 == 1 and small.stem.out_channels < 16


class Paths(nn.Module):
    """The input is split into as many parts as there are paths: two attributes of which only the quotient is a size."""

    def __init__(self) -> None:
        super().__init__()
        self.width, self.count = 12, 2
        self.stem, self.head = nn.Conv2d(3, 12, 1), nn.Conv2d(8, 2, 1)
        self.paths = nn.ModuleList(nn.Conv2d(6, 8, 1) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        parts = torch.split(self.stem(x), self.width // self.count, 1)
        return self.head(torch.stack([path(part) for path, part in zip(self.paths, parts, strict=True)], 1).sum(1))


def test_a_quotient_of_attributes_is_solved_for_the_larger() -> None:
    structure, small = proved(Paths(), torch.randn(2, 3, 4, 4))
    assert len(structure.prunable) == 3 and small.width == small.stem.out_channels < 12 and small.count == 2


class GatedHeads(nn.Module):
    """A projection viewed in literal sizes, and weights of heads spread over as many copies as there are heads."""

    def __init__(self) -> None:
        super().__init__()
        self.heads, self.inner, self.head = 4, nn.Linear(6, 24), nn.Linear(24, 2)
        self.gate = nn.Linear(6, 8)

    def forward(self, x: Tensor) -> Tensor:
        rows = self.inner(x).view(*x.shape[:-1], self.heads, -1)
        gate = self.gate(rows).view(*rows.shape[:-1], 2, 4).sum(-1)
        rows = rows * gate[..., :1] * gate[..., 1:]
        copies = x.sum(-1)[:, :, None].broadcast_to(*x.shape[:-1], self.heads)
        return self.head(rows.flatten(-2)) + copies.sum(-1, keepdim=True)


def test_only_literal_sizes_of_a_view_are_kept() -> None:
    structure, small = proved(GatedHeads(), torch.randn(2, 5, 6))
    assert small.gate.out_features == 8 and small.inner.out_features < 24, structure.repairs


class Grid(nn.Module):
    """Windows of 2 x 3, then a grid of 3 x 2 of the same picture (MaxViT)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 8, 1), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        windows = x.view(2, -1, 3, 2, 2, 3).permute(0, 2, 4, 3, 5, 1).softmax(1)
        picture = windows.permute(0, 5, 1, 3, 2, 4).reshape(2, -1, 6, 6)
        return self.head(picture.view(2, -1, 2, 3, 3, 2).amax((3, 5)).flatten(2).mean(-1))


def test_fixed_sizes_can_be_cut_anywhere() -> None:
    structure, _ = proved(Grid(), torch.randn(2, 3, 6, 6))
    assert len(structure.prunable) == 1


class Blur(nn.Module):
    """A fixed filter for each channel, with an attribute of its own for the number of groups (anti-aliasing)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.register_buffer("kernel", torch.rand(1, 1, 3, 3).repeat(channels, 1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.conv2d(x, self.kernel, stride=2, groups=self.channels)


def test_groups_of_a_convolution_that_an_attribute_counts() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 1), Blur(8), nn.Conv2d(8, 2, 1))
    structure, small = proved(model, torch.randn(2, 3, 6, 6))
    assert not structure.repairs and small[1].channels == 4
