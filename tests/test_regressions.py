"""Networks on which something once went wrong, small, each with its mechanism in the name."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import reconvene as rc
from proof import prove
from random_nets import Spec
from test_properties import hold


@pytest.mark.parametrize("choice", range(4))
@pytest.mark.parametrize("how", ["fused", "scaled"])
def test_attention_that_scales_by_the_width_it_reads_off_a_tensor(how: str, choice: int) -> None:
    """On meta fused attention is taken apart, and its scale is a number in a call: shapes alone do not show it."""
    hold(Spec((("attention", 1, 4, how),)), choice)


@pytest.mark.parametrize("choice", range(4))
def test_a_mean_as_a_sum_divided_by_a_size_of_the_tensor(choice: int) -> None:
    hold(Spec((("space gate", "counted"),)), choice)


def test_a_shuffle_of_single_channels_copies_nothing() -> None:
    """One channel per group is no shuffle at all, so memory falls below the exact polynomial, never above it."""
    hold(Spec((("resize", "nearest"), ("shuffle", 4, "module")), dims=1, size=5, width=12, outputs="dict"), 380)


def test_halves_written_into_one_buffer() -> None:
    block = ("halves", (("conv", 6, 3, 1, 1, "zeros", 1, True),), (("interleave", 6, "sum"),), "buffer")
    structure, _ = hold(Spec((block,)), 5)
    assert len(structure.prunable) > 1


class NormAfterFlatten(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm, self.head = nn.Conv2d(3, 6, 1), nn.BatchNorm1d(6 * 16), nn.Linear(6 * 16, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.stem(x).flatten(1)))


def test_a_norm_after_flatten_counts_positions_not_channels() -> None:
    _, _, small = prove(NormAfterFlatten(), torch.randn(2, 3, 4, 4))
    assert small.norm.num_features == 3 * 16 == small.norm.weight.numel()


@pytest.mark.parametrize("affine", [True, False])
def test_an_instance_norm_of_channels_in_two_factors(affine: bool) -> None:
    blocks = (("pixels", "unshuffle"), ("norm", "instance", affine), ("pixels", "shuffle"))
    structure, small = hold(Spec(blocks), 1)
    assert not structure.repairs and small.body[1].num_features == 4 * small.stem.out_channels < 32


class OneLayerUnderTwoNames(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.body, self.head = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 2, 1)
        self.again = self.body

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.again(self.body(self.stem(x))))


@pytest.mark.parametrize("criterion", ["magnitude", "synflow"])
def test_scoring_leaves_a_layer_under_two_names_as_it_was(criterion: Any) -> None:
    model = OneLayerUnderTwoNames()
    before = {name: (tensor, tensor.clone()) for name, tensor in model.named_parameters()}
    rc.plan(model, torch.randn(1, 3, 8, 8), rc.Budget(params="2x"), criterion, round_to=1)
    after = dict(model.named_parameters())
    assert all(after[name] is tensor and torch.equal(tensor, value) for name, (tensor, value) in before.items())
