"""Rules by the user: what leaves PyTorch couples what its author says, and nothing is guessed without one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from proof import prove
from reconvene.structure import analyse, rule
from reconvene.structure.opaque import LAYERS
from reconvene.structure.rules import RULES, Context, elementwise


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
