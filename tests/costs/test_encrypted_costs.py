"""What networks take under CKKS: levels, depth, rotations and ciphertexts by hand, budgets on them, and refusals."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import reconvene as rc
from reconvene.costs.encrypted import SECURE_BITS, ckks_parameters, readiness
from reconvene.errors import BudgetError, ModelError
from reconvene.models import resolve_address
from reconvene.structure import analyse
from reconvene.surgery.operations.forms import Polynomial
from support.cli_calls import answer
from support.small_modules import Square

X = torch.randn(1, 1, 8, 8)


class Quadratic(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return 0.1 + 0.5 * x + 0.2 * x * x


class Horner(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return (0.2 * x + 0.5) * x + 0.1


class Power(nn.Module):
    def __init__(self, exponent: int) -> None:
        super().__init__()
        self.exponent = exponent

    def forward(self, x: Tensor) -> Tensor:
        return x**self.exponent


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), Square())

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


def mlp(*between: nn.Module, hidden: int = 16) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, hidden), *between, nn.Linear(hidden, 10))


@pytest.mark.parametrize(
    ("net", "levels", "depth"),
    [
        (mlp(), 2, 0),
        (mlp(Square()), 3, 1),
        (mlp(Quadratic()), 3, 1),  # its coefficients become part of the layer behind it
        (mlp(Horner()), 3, 1),
        (mlp(Polynomial(0.1, 0.5, 0.2)), 3, 1),
        (mlp(Polynomial(0.1, 0.5, 0.2, 0.1, 0.05)), 4, 2),
        (mlp(Power(3)), 4, 2),
        (mlp(Power(4)), 4, 2),
        (mlp(Square(), Square()), 4, 2),
        (nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), Square(), nn.AvgPool2d(2), nn.Conv2d(4, 2, 3)), 3, 1),
        (nn.Sequential(nn.Conv2d(1, 4, 3), Block(), nn.Flatten(), nn.Linear(144, 2)), 4, 1),
    ],
)
def test_levels_and_depth_by_hand(net: nn.Module, levels: int, depth: int) -> None:
    ready = readiness(analyse(net, X))
    assert not ready.blocked and (ready.levels, ready.depth) == (levels, depth)


def test_rotations_and_ciphertexts_by_hand() -> None:
    ready = readiness(analyse(mlp(Square()), X))
    assert ready.rotations == (64 + 1) + (16 + 1)
    assert ready.ciphertexts == 64 + 16 + 10


def test_parameters_keep_128_bits_of_security() -> None:
    for levels in range(1, 27):
        parameters = ckks_parameters(levels)
        assert sum(parameters.modulus_bits) <= SECURE_BITS[parameters.ring] and parameters.scale_bits >= 30
        assert len(parameters.modulus_bits) == levels + 2
    with pytest.raises(ModelError, match="bootstrapping"):
        ckks_parameters(27)


def test_budgets_are_kept_and_what_widths_do_not_change_is_refused() -> None:
    net = mlp(Square(), hidden=64)
    plan = rc.plan(net, X, budget=rc.Budget(rotations=90, ciphertexts="1.4x", levels=3))
    assert plan.costs["pruned"]["rotations"] == 64 + 1 + plan.rows[0].width + 1 <= 90
    assert plan.costs["pruned"]["ciphertexts"] <= (64 + 64 + 10) / 1.4 and plan.costs["pruned"]["levels"] == 3
    small = plan.apply(net)
    assert readiness(analyse(small, X)).rotations == plan.costs["pruned"]["rotations"]
    with pytest.raises(BudgetError, match="levels 2"):
        rc.plan(net, X, budget=rc.Budget(levels=2))


def test_what_cannot_run_is_refused_by_the_name_of_the_layer() -> None:
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 10), nn.Softmax(1))
    ready = readiness(analyse(net, X))
    assert [(entry.layer, entry.operator) for entry in ready.blocked] == [
        ("1", "relu"),
        ("2", "max_pool2d"),
        ("5", "softmax"),
    ]
    assert "average pooling" in str(ready) and "polynomial" in str(ready)
    with pytest.raises(ModelError, match=r"relu in 1 cannot run.*max_pool2d in 2 cannot run"):
        rc.plan(net, X, budget=rc.Budget(rotations="2x"))


def test_inspect_names_what_cannot_run(capfd: pytest.CaptureFixture[str]) -> None:
    told = answer(capfd, "inspect", "resnet20", "--model-arg", "width=0.25", "--encrypted")["encrypted"]
    assert {entry["operator"] for entry in told["blocked"]} == {"relu"}
    assert told["blocked"][0]["layer"] == "stem.2" and told["levels"] == 39
    model = resolve_address("resnet20", {"width": 0.25}).build()
    assert told["rotations"] == readiness(analyse(model, torch.randn(1, 3, 32, 32), trial=False)).rotations


class Attending(nn.Module):
    """A matrix product of two encrypted tensors, or a gate of another shape."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how, self.q, self.k = how, nn.Linear(6, 6), nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        q, k = self.q(x), self.k(x)
        if self.how == "matrix":
            return torch.bmm(q, k.transpose(1, 2))
        return q * k.mean(1, keepdim=True) if self.how == "gate" else q * k


@pytest.mark.parametrize(("how", "operator"), [("matrix", "bmm"), ("gate", "mul")])
def test_products_that_are_not_number_by_number_are_blocked(how: str, operator: str) -> None:
    """CKKS multiplies ciphertexts number by number: of other products only the shapes of numbers would be right."""
    blocked, equal = (readiness(analyse(Attending(each), torch.randn(1, 4, 6))).blocked for each in (how, "equal"))
    assert operator in {entry.operator for entry in blocked}
    assert {"bmm", "mul"}.isdisjoint(entry.operator for entry in equal)
    assert "view" in {entry.operator for entry in equal}, "a linear layer on tokens puts them beside the images"


class Calls(nn.Module):
    """A layer, and then a call of the caller's choice."""

    def __init__(self, call: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.fc, self.call = nn.Linear(8, 8), call

    def forward(self, x: Tensor) -> Tensor:
        return self.call(self.fc(x))


@pytest.mark.parametrize(
    ("call", "instead"),
    [
        (lambda x: nn.functional.instance_norm(x[:, None]), "batch norm, whose constants are known"),
        (lambda x: x + x.view(1, 2, 4).mul_(2.0).flatten(1), "the same call out of place: another tensor"),
        (lambda x: (x.view(1, 2, 4), x.add_(1.0))[0], "the same call out of place: another tensor"),
        (lambda x: (x.view(2, 4)[0], x.unsqueeze(1).add_(1.0))[0], "the same call out of place: another tensor"),
        (lambda x: torch.zeros(1, 8).add_(x), "into a tensor that is not encrypted"),
        (lambda x: torch.add(x, 1, out=x.clone()), "the same call out of place|sums and products"),
        (lambda x: torch.div(x, 2, rounding_mode="floor"), "a division without rounding"),
        (lambda x: x.chunk(2, 1)[0], "slices"),
        (lambda x: x.view(2, 4), "the images, as it is"),
        (lambda x: x.mean(), "the images, as it is"),
        (lambda x: x - x.mean(0, keepdim=True), "the images, as it is"),
        (lambda x: x + x.sum(0), "the images, as it is"),
        (lambda x: x[:1] + x, "the images, as it is"),
        (lambda x: x.unsqueeze(1)[0] + x, "the images, as it is"),
        (lambda x: x.unsqueeze(0).transpose(0, 1)[:, 0], "the images, as it is"),
        (lambda x: torch.ones(1, 1) @ x, "the images, as it is"),
        (lambda x: nn.functional.prelu(x, torch.ones(1)), "prelu in .* use a polynomial"),
    ],
)
def test_calls_that_would_go_wrong_on_encrypted_numbers_are_blocked(
    call: Callable[[Tensor], Tensor], instead: str
) -> None:
    told = readiness(analyse(Calls(call).eval(), torch.randn(1, 8), trial=False))
    assert any(re.search(instead, str(blocked)) for blocked in told.blocked), told.blocked


@pytest.mark.parametrize(
    "call",
    [
        lambda x: x.view(1, 2, 4).mul_(2.0).flatten(1),
        lambda x: x.add_(1.0).view(1, 2, 4).flatten(1),
        lambda x: x.view(-1, 2, 4).transpose(1, 2).flatten(1),
        lambda x: (x[:, :4] - x[:, 4:].mean(1, keepdim=True)) @ torch.ones(4, 2),
    ],
)
def test_calls_that_compute_every_image_by_itself_run(call: Callable[[Tensor], Tensor]) -> None:
    assert readiness(analyse(Calls(call).eval(), torch.randn(1, 8), trial=False)).blocked == ()


def test_example_inputs_may_hold_several_images() -> None:
    """Also as many as a layer has features."""
    net = mlp(Quadratic())
    one = readiness(analyse(net, X))
    for images in (5, 10, 64):
        assert readiness(analyse(net, X.expand(images, -1, -1, -1))) == one
    plan = rc.plan(net, torch.randn(8, 1, 8, 8), budget=rc.Budget(rotations="1.05x"))
    assert plan.costs["dense"]["rotations"] == one.rotations
    mixed = readiness(analyse(Calls(lambda x: x - x.mean(0)).eval(), torch.randn(3, 8), trial=False))
    assert mixed.blocked[0].operator == "mean"


def test_a_whole_exponent_may_be_a_float() -> None:
    assert readiness(analyse(Calls(lambda x: x**2.0).eval(), torch.randn(1, 8), trial=False)).blocked == ()
