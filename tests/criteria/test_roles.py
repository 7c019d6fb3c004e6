"""The part that a parameter plays for a channel follows from how the network uses it, not from its module."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reconvene.criteria import score_channels
from reconvene.criteria.channels.slots import Roles
from reconvene.structure import Structure, analyse

WIDTH = 8


class Owned(nn.Module):
    """A parameter of its own that meets the activations as ``use`` says; without a bias, so that gates are exact."""

    def __init__(self, shape: tuple[int, ...], use: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.weight, self.use = nn.Parameter(torch.rand(shape) + 0.5), use

    def forward(self, x: Tensor) -> Tensor:
        return self.use(x, self.weight)


MIDDLES: dict[str, Callable[[], nn.Module]] = {
    "nothing": nn.Identity,
    "depthwise": lambda: nn.Conv1d(WIDTH, WIDTH, 3, groups=WIDTH),
    "transposed depthwise": lambda: nn.ConvTranspose1d(WIDTH, WIDTH, 2, 2, groups=WIDTH, bias=False),
    "scale [1, C, 1]": lambda: Owned((1, WIDTH, 1), torch.mul),
    "scale [C, 1]": lambda: Owned((WIDTH, 1), torch.mul),
    "shift [1, C, L]": lambda: Owned((1, WIDTH, 12), torch.add),
}


@pytest.mark.parametrize("middle", MIDDLES)
def test_only_rows_and_columns_count_for_the_derivative_by_a_gate(middle: str) -> None:
    torch.manual_seed(0)
    between = MIDDLES[middle]()
    net = nn.Sequential(nn.Conv1d(3, WIDTH, 1), between, nn.Conv1d(WIDTH, 4, 1), nn.AdaptiveAvgPool1d(1), nn.Flatten())
    x, y = torch.randn(6, 3, 12), torch.arange(6) % 4
    gate = torch.ones(WIDTH, requires_grad=True)
    loss = F.cross_entropy(net[2:](between(net[0](x)) * gate[:, None]), y)
    expected = torch.autograd.grad(loss, gate)[0].square().double()
    taylor = score_channels(net, analyse(net, x), x, "taylor", data=[(x, y)]).scores[0]
    torch.testing.assert_close(torch.from_numpy(taylor), expected, rtol=1e-4, atol=1e-9)
    l1 = torch.from_numpy(score_channels(net, analyse(net, x), x, "l1").scores[0])
    rows = [net[0].weight, between.weight] if "depthwise" in middle else [net[0].weight]
    torch.testing.assert_close(l1, sum(row.detach().double().abs().flatten(1).sum(1) for row in rows))


def roles_of(net: nn.Module, x: Tensor) -> dict[tuple[str, int], str | None]:
    structure: Structure = analyse(net, x)
    roles = Roles.of(net, structure)
    return {(slot.parameter, slot.dim): roles.role(slot) for group in structure.prunable for slot in group.slots}


@pytest.mark.parametrize("inputs_first", [False, True])
def test_a_matrix_of_ones_own_is_read_and_computed_as_it_is_multiplied(inputs_first: bool) -> None:
    shapes = [(6, 8), (8, 5)] if inputs_first else [(8, 6), (5, 8)]
    use = torch.matmul if inputs_first else F.linear
    net = nn.Sequential(Owned(shapes[0], use), nn.ReLU(), Owned(shapes[1], use))
    out, read = (1, 0) if inputs_first else (0, 1)
    assert roles_of(net, torch.randn(4, 6)) == {("0.weight", out): "row", ("2.weight", read): "column"}


def test_a_matrix_on_the_left_computes_with_its_rows() -> None:
    net = nn.Sequential(
        Owned((8, 6), lambda x, w: w @ x.t()), nn.ReLU(), Owned((5, 8), lambda x, w: (w @ x).t())
    )  # fmt: skip
    assert roles_of(net, torch.randn(4, 6)) == {("0.weight", 0): "row", ("2.weight", 1): "column"}


def test_an_embedding_computes_with_its_columns() -> None:
    net = nn.Sequential(nn.Embedding(20, 8), nn.ReLU(), nn.Linear(8, 3))
    roles = roles_of(net, torch.randint(20, (4, 5)))
    assert roles == {("0.weight", 1): "row", ("2.weight", 1): "column"}
