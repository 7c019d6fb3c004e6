"""Rules by the user: what leaves PyTorch couples what its author says, and nothing is guessed without one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from reconvene.costs.model import CostModel
from reconvene.structure import analyse, rule
from reconvene.structure.custom_layers import LAYERS
from reconvene.structure.rules import RULES, Context, elementwise
from support.proof import prove


class Negate(torch.autograd.Function):
    """A custom autograd function that leaves PyTorch."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return torch.from_numpy(-x.detach().numpy())

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return -grads[0]


class Outside(nn.Module):
    """Scales every channel in NumPy: no recording can see what it does."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(width, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return Negate.apply(x) * self.scale


def model() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 8, 1), Outside(8), nn.Conv2d(8, 2, 1))


@pytest.fixture
def own_rules() -> Iterator[None]:
    rules, layers = dict(RULES), set(LAYERS)
    yield
    RULES.clear()
    RULES.update(rules)
    LAYERS.clear()
    LAYERS.update(layers)


INPUTS = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(0))


@pytest.mark.usefixtures("own_rules")
def test_a_layer_with_a_rule_is_pruned_and_proved() -> None:
    @rule(Outside)
    def outside(context: Context, op: Any) -> None:
        elementwise.pointwise(context, op)  # its input and its scale meet channel by channel

    structure, _, small = prove(model(), INPUTS)
    assert [g.width for g in structure.prunable] == [8]
    assert small[1].scale.shape == (4, 1, 1)
    assert "forward" not in small[1].__dict__


def test_without_a_rule_nothing_around_it_is_pruned() -> None:
    structure = analyse(model(), INPUTS)
    assert not structure.prunable


@pytest.mark.usefixtures("own_rules")
def test_an_operator_of_a_library_takes_a_rule_by_its_full_name() -> None:
    @torch.library.custom_op("reconvene_test::double", mutates_args=())
    def double(x: Tensor) -> Tensor:
        return 2 * x

    double.register_fake(torch.empty_like)

    class Doubled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(4, 8), nn.Linear(8, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.second(torch.ops.reconvene_test.double(self.first(x)))

    inputs = torch.randn(3, 4)
    pinned = analyse(Doubled(), inputs)
    assert not pinned.prunable and any("double" in site for site in pinned.unknown)
    rule("reconvene_test::double")(elementwise.pointwise)
    structure, _, _ = prove(Doubled(), inputs)
    assert [g.width for g in structure.prunable] == [8]


@pytest.mark.usefixtures("own_rules")
def test_a_rule_that_fails_pins_what_it_reads_and_is_named() -> None:
    @rule(Outside)
    def outside(context: Context, op: Any) -> None:
        context.dims(op.args[7])

    structure = analyse(model(), INPUTS)
    assert not structure.prunable
    assert any("whose rule fails (IndexError" in site for site in structure.unknown)
    assert any("whose rule fails" in str(group.pinned) for group in structure.groups)


class Interleaved(nn.Module):
    """Gates and values stand in turn, as in GPT-OSS."""

    def __init__(self, step: int) -> None:
        super().__init__()
        self.step, self.stem, self.head = step, nn.Linear(5, 12 * step), nn.Linear(12, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = self.stem(x)
        return self.head(torch.stack([h[..., n :: self.step] for n in range(self.step)]).prod(0))


@pytest.mark.parametrize("step", [2, 3])
def test_channels_that_stand_in_turn_leave_by_rows(step: int) -> None:
    structure, _, small = prove(Interleaved(step), torch.randn(4, 5))
    assert [group.width for group in structure.prunable] == [12]
    assert small.stem.out_features == 6 * step


class Experts(nn.Module):
    """Tokens sorted by expert, and one product for all experts, with weights in either order."""

    def __init__(self, hidden: int, *, transposed: bool) -> None:
        super().__init__()
        self.transposed = transposed
        self.stem, self.head = nn.Linear(5, 16), nn.Linear(16, 2)
        first, second = ((16, hidden), (hidden, 16)) if transposed else ((hidden, 16), (16, hidden))
        self.up, self.down = nn.Parameter(torch.randn(3, *first)), nn.Parameter(torch.randn(3, *second))

    def forward(self, x: Tensor) -> Tensor:
        ends = torch.tensor([2, 2, 6], dtype=torch.int32)
        up, down = (w if self.transposed else w.transpose(-2, -1) for w in (self.up, self.down))
        hidden = nn.functional.grouped_mm(self.stem(x), up, offs=ends)
        return self.head(nn.functional.grouped_mm(hidden.relu(), down, offs=ends))


@pytest.mark.parametrize("transposed", [False, True])
def test_experts_lose_channels_in_blocks_that_the_kernel_reads(transposed: bool) -> None:
    structure, _, small = prove(Experts(24, transposed=transposed), torch.randn(6, 5), dtype=torch.float32)
    # Blocks of four 32-bit numbers, except where neighbours in a row of weights are another dimension.
    assert sorted(group.width for group in structure.prunable) == ([4, 4, 6] if transposed else [4, 6, 16])
    assert small.up.shape == ((3, 8, 12) if transposed else (3, 12, 8))
    assert CostModel(structure).dense["macs"] == 5 * 16 + 16 * 24 + 24 * 16 + 16 * 2  # of one example


class Spectrum(nn.Module):
    """A filter in frequency with complex weights."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.stem, self.body, self.head = nn.Linear(5, 16), nn.Linear(16, 16), nn.Linear(16, 2)
        self.filter = nn.Parameter(torch.randn(5, 16, dtype=dtype))

    def forward(self, x: Tensor) -> Tensor:
        frequencies = torch.fft.rfft(self.stem(x), dim=1) * self.filter.to(torch.complex128)
        return self.head(self.body(torch.fft.irfft(frequencies, n=8, dim=1).relu()).relu())


@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128])
def test_complex_weights_and_fourier_transforms_stay_and_say_why(dtype: torch.dtype) -> None:
    net = Spectrum(dtype)
    net.filter.requires_grad_(False)
    structure = analyse(net.double(), torch.randn(2, 8, 5, dtype=torch.float64))
    assert [group.name for group in structure.prunable] == ["body"]
    reasons = {group.name: str(group.pinned) for group in structure.groups if not group.prunable}
    assert "is a Fourier transform, which mixes all positions" in reasons["stem"]
    assert any("filter holds complex numbers" in reason for reason in reasons.values())
    assert CostModel(structure).dense["size"] > 0
