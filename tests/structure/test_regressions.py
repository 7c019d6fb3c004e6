"""Networks on which something once went wrong, small, each with its mechanism in the name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import reconvene as rc
from support.promises import hold, hold_budget
from support.proof import prove
from support.random_nets import Spec
from support.random_values import VALUED


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


class Around(nn.Module):
    """A stem, one function of its channels, and a head."""

    def __init__(self, function: Callable[[Any, Tensor], Tensor], layer: nn.Module | None = None) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 2, 1)
        self.function, self.layer = function, layer

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.function(self, self.stem(x)))


def proved(function: Callable[[Any, Tensor], Tensor], layer: nn.Module | None = None, *, prunable: bool = True) -> Any:
    for ratio, seed in ((0.5, 0), (0.75, 1), (0.1, 2)):
        net, x = Around(function, layer), torch.randn(2, 3, 4, 4)
        structure, _, _ = prove(net, x, ratio=ratio, seed=seed, prunable=prunable)
    return structure


def test_a_call_in_place_that_the_reference_restricts() -> None:
    """The reference computes on a small copy, but code reads on from the tensor that the call wrote to."""
    assert proved(lambda self, x: x.mul(x.shape[1]).div_(x.shape[1] * 2)).prunable
    assert proved(lambda self, x: (x * 1).add_(x.sum(1, keepdim=True) / x.shape[1])).prunable


def test_dimensions_that_come_and_go_in_place() -> None:
    assert proved(lambda self, x: (x * 1).unsqueeze_(0).squeeze_(0)).prunable


def _set_in_place(x: Tensor, value: float) -> Tensor:
    x[1] = value
    return x


FOLLOWING_NUMBERS: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "named factor of a sum": lambda self, x: torch.add(x, x.sum(1, keepdim=True), alpha=1 / x.shape[1]),
    "named factor of a product": lambda self, x: torch.addcmul(x, x, x, value=1 / x.shape[1]),
    "default that a width of one meets": lambda self, x: F.softplus(x, beta=x.shape[1]),
    "epsilon of a norm": lambda self, x: F.layer_norm(x, x.shape[1:], eps=1 / x.shape[1]),
    "padding": lambda self, x: F.pad(x, [1, 1], value=x.shape[1]),
    "factor of a matrix product": lambda self, x: torch.baddbmm(
        x.flatten(2), x.flatten(2), x.new_ones(x.shape[0], 16, 16), alpha=1 / x.shape[1]
    ).view_as(x),
    "filled tensor": lambda self, x: x * torch.full((1, 1, 1, 1), 1 / x.shape[1], dtype=x.dtype),
    "filled like another": lambda self, x: x + torch.full_like(x, x.shape[1]),
    "new tensor": lambda self, x: x + x.new_full((1,), x.shape[1]),
    "scalar tensor": lambda self, x: x * torch.tensor(x.shape[1] ** -0.5, dtype=x.dtype),
    "tensor of one number": lambda self, x: x * torch.tensor([x.shape[1] ** -0.5], dtype=x.dtype),
    "tensor on the device of another": lambda self, x: x / torch.tensor(float(x.shape[1]), device=x.device),
    "tensor like another": lambda self, x: x * x.new_tensor(x.shape[1] ** -0.5),
    "tensor from numpy": lambda self, x: x + torch.from_numpy(np.full((1, 1, 4, 1), x.shape[1] / 8)),
    "values put together": lambda self, x: x + torch.stack([torch.tensor(x.shape[1]), torch.tensor(2)]).sum(),
    "value set in place": lambda self, x: x * _set_in_place(x.new_ones(3, 1, 1, 1), x.shape[1])[1:2],
    "first row taken": lambda self, x: x * x[:, :, x.shape[1] // 4 : x.shape[1] // 4 + 1],
    "row taken": lambda self, x: x * x[:, :, x.shape[1] // 4].unsqueeze(2),
    "shift of a roll": lambda self, x: x.roll(x.shape[1] // 4, 2) + x,
    "end of a range of steps": lambda self, x: x * torch.linspace(0, x.shape[1], 4, dtype=x.dtype),
    "range that starts later": lambda self, x: x * torch.arange(x.shape[1], x.shape[1] + 4),
    "correction of a variance": lambda self, x: x / (1 + x.var(1, correction=x.shape[1] / 100, keepdim=True)),
    "dilation": lambda self, x: F.max_pool2d(x, 2, stride=1, dilation=(1 + x.shape[1] // 8, 1), ceil_mode=True),
    "power": lambda self, x: (x * x + 1).pow(1 / x.shape[1]),
    "attribute in a tensor": lambda self, x: x / torch.tensor(float(self.stem.out_channels), dtype=x.dtype).sqrt(),
}


@pytest.mark.parametrize("name", FOLLOWING_NUMBERS)
def test_a_number_that_follows_a_width_as_a(name: str) -> None:
    proved(FOLLOWING_NUMBERS[name], prunable=name != "dilation")


@pytest.mark.parametrize("how", ["weight_norm", "spectral_norm", "orthogonal"])
def test_a_linear_layer_whose_weight_is_computed(how: str) -> None:
    layer = getattr(nn.utils.parametrizations, how)(nn.Linear(8, 8))
    structure = proved(lambda self, x: self.layer(x.movedim(1, -1)).movedim(-1, 1), layer)
    assert len(structure.prunable) == (1 if how == "orthogonal" else 2)


class NoRegisters(nn.Module):
    """A parameter without a single row (a vision transformer with no register token)."""

    def __init__(self) -> None:
        super().__init__()
        self.registers, self.inner, self.head = nn.Parameter(torch.zeros(1, 0, 8)), nn.Linear(6, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.cat([self.registers.expand(len(x), -1, -1), self.inner(x)], 1))


def test_a_parameter_without_rows() -> None:
    structure, _, small = prove(NoRegisters(), torch.randn(2, 5, 6))
    assert structure.prunable and small.registers.shape == (1, 0, 4)


class EinsumAttention(nn.Module):
    """With one head left, ``einsum`` takes itself apart in another way."""

    def __init__(self) -> None:
        super().__init__()
        self.heads, self.qkv, self.head = 2, nn.Linear(6, 24), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (part.unflatten(-1, (self.heads, -1)) for part in self.qkv(x).chunk(3, -1))
        weights = torch.einsum("bihc,bjhc->bhij", q, k).softmax(-1)
        return self.head(torch.einsum("bhij,bjhc->bihc", weights, v).flatten(-2))


def test_a_sum_of_einstein_over_one_head() -> None:
    structure, _, small = prove(EinsumAttention(), torch.randn(2, 5, 6))
    assert not structure.repairs and small.heads == 1


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


def plain(*blocks: Any, size: int = 6) -> Spec:
    return Spec(
        blocks=blocks, dims=2, size=size, width=8, head="pool", outputs="tensor", second="none", auxiliary=False, seed=0
    )


def test_a_standardised_weight_behind_channels_that_are_not_silent() -> None:
    """What removed channels carry (a bias of the mixer) must not pass: less its mean, their weight is not zero."""
    hold(plain(("conv", 4, 3, 1, 1, "zeros", 1, False), ("windows",), ("odd", "weight standardised")), 0)


@pytest.mark.parametrize("choice", [0, 8192])
def test_one_head_of_several_is_multiplied_in_fewer_calls(choice: int) -> None:
    hold(plain(("known heads", 2, 2, "grouped")), choice)


def test_a_norm_over_one_pixel() -> None:
    hold(plain(("conv", 4, 3, 2, 1, "valid", 1, False), ("norm", "instance-stats", False), size=4), 0)


def looking(name: str, check: str) -> Spec:
    """A mechanism that looks at values or widths between two convolutions, behind a check of the input or not."""
    conv = ("conv", 8, 3, 1, 1, "zeros", 1, True)
    return Spec((conv, ("valued", name), ("conv", 12, 1, 1, 1, "zeros", 1, True)), size=4, width=16, check=check)


@pytest.mark.parametrize("check", ["none", "nan"])
@pytest.mark.parametrize("name", VALUED)
def test_code_that_looks_at_values_or_widths(name: str, check: str) -> None:
    """None of these is refused, and none is wrong, whatever widths stay."""
    for choice in (0, 1):
        hold(looking(name, check), choice)


@pytest.mark.parametrize("criterion", ["random", "magnitude", "default"])
@pytest.mark.parametrize("name", VALUED)
def test_a_budget_of_code_that_looks_at_values_or_widths(name: str, criterion: str) -> None:
    """A criterion that needs no flow plans differences, closed gates and scales below zero as anything else."""
    assert hold_budget(looking(name, "none"), criterion, {"params": 0.6}, 1) is not None


@pytest.mark.parametrize("check", ["nan", "finite", "item", "bool"])
def test_a_head_that_only_training_reads_behind_a_check_of_values(check: str) -> None:
    """Where values were read, training took no part in the recording: the auxiliary head kept its width."""
    hold(Spec((("padded", "replicate"),), dims=1, head="conv", auxiliary=True, check=check), 0)


def test_the_silenced_reference_meets_every_norm_of_two_blocks() -> None:
    hold(Spec((("convnext", 8), ("convnext", 8)), size=6, width=6, outputs="dict", seed=2), 2)
