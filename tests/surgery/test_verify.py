"""The last word on a plan: the small network and the silenced one give the same outputs, or a call is pinned."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import reconvene as rc
from reconvene.errors import StructureError
from reconvene.planning import assemble
from reconvene.structure import call
from reconvene.structure.rules import RULES, Context
from reconvene.surgery import Plan
from reconvene.surgery.call_comparison import TOLERANCE, relative_error
from reconvene.surgery.verify import Difference, PlanVerification

INPUTS = torch.randn(2, 12, generator=torch.Generator().manual_seed(0))
HALF = rc.Budget(params=0.6)


@pytest.fixture
def own_rules() -> Iterator[None]:
    rules = dict(RULES)
    yield
    RULES.clear()
    RULES.update(rules)


class Mirrored(nn.Module):
    """Adds channels to the same channels in reverse order."""

    def __init__(self) -> None:
        super().__init__()
        self.i, self.a, self.b, self.o = (nn.Linear(*size) for size in ((12, 32), (32, 32), (32, 32), (32, 5)))

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(self.i(x).relu())
        return self.o(self.b((h + h.flip(1)).relu()).relu())


class ChoosesByRounding(nn.Module):
    """Takes one of two boxes by scores that are equal but for rounding: one sum, added up in two orders."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.body = nn.Linear(12, 128), nn.Linear(128, 128)
        self.score, self.box = nn.Linear(128, 8, bias=False), nn.Linear(128, 16)

    def forward(self, x: Tensor) -> Tensor:
        h = self.body(self.stem(x).relu()).relu()
        scores = torch.stack([self.score(h), (h.unsqueeze(1) * self.score.weight).sum(-1)], -1)
        return self.box(h).unflatten(1, (8, 2)).gather(2, scores.argmax(-1, keepdim=True)).squeeze(-1)


class ChoosesInReverse(Mirrored):
    """Looks at signs of sums of channels and the same channels in reverse order."""

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(self.i(x).relu())
        return self.o((self.b(h + h.flip(1)) > 0).to(x.dtype))


def error(plan: Plan, model: nn.Module, inputs: Any = INPUTS) -> float:
    with torch.no_grad():
        return relative_error(call(plan.apply(model).eval(), inputs), call(plan.mask(model).eval(), inputs))


def wrong_flip(context: Context, op: Any) -> None:
    """Says that a flip leaves channels where they are."""
    context.set_like(op, op.args[0])


@pytest.mark.usefixtures("own_rules")
def test_a_rule_that_is_wrong_in_meaning_is_found_located_and_pinned() -> None:
    RULES["flip"] = wrong_flip
    torch.manual_seed(0)
    model = Mirrored().eval()
    blind = rc.plan(model, INPUTS, HALF, "random", verify=False)
    assert error(blind, model) > 1e-2  # the rule is wrong, and shapes do not show it
    plan = rc.plan(model, INPUTS, HALF, "random")
    assert error(plan, model) < TOLERANCE
    widths = {row.name: row.width for row in plan.rows}
    assert "a" not in widths and widths["i"] < 32
    assert any("flip in the model itself" in note and "differs from the silenced one" in note for note in plan.notes)


@pytest.mark.usefixtures("own_rules")
def test_zeros_of_a_fresh_network_hide_nothing() -> None:
    RULES["flip"] = wrong_flip
    model = Mirrored().eval()
    with torch.no_grad():
        model.o.weight.zero_()  # no output shows anything
    plan = rc.plan(model, INPUTS, HALF, "random")
    assert "a" not in {row.name for row in plan.rows}
    assert not model.o.weight.any()


def test_a_difference_that_no_call_explains_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def differ(*_: Any, **__: Any) -> PlanVerification:
        return PlanVerification(Difference(None, "the small network differs from the silenced one by 1.0e+00"))

    monkeypatch.setattr(assemble, "verify_plan", differ)
    with pytest.raises(StructureError, match="no single call explains it"):
        rc.plan(Mirrored(), INPUTS, HALF, "random")


def test_verify_false_runs_neither_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_: Any, **__: Any) -> None:
        raise AssertionError("compared")

    monkeypatch.setattr(assemble, "verify_plan", forbidden)
    rc.plan(Mirrored(), INPUTS, HALF, "random", verify=False)
    with pytest.raises(AssertionError, match="compared"):
        rc.plan(Mirrored(), INPUTS, HALF, "random")


def test_long_sums_in_float32_are_settled_in_float64() -> None:
    torch.manual_seed(0)
    layers: list[nn.Module] = [nn.Linear(12, 64)]
    for _ in range(60):
        layers += [nn.Linear(64, 64), nn.Tanh()]
    deep = nn.Sequential(*layers, nn.Linear(64, 5)).eval()
    with torch.no_grad():
        for parameter in deep.parameters():
            parameter.mul_(4.0)  # chaotic: rounding grows from layer to layer
    plan = rc.plan(deep, INPUTS, HALF, "random")
    assert not plan.notes


def test_half_precision_and_locks_are_no_obstacle() -> None:
    class Guarded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.o, self.lock = nn.Linear(12, 32), nn.Linear(32, 5), threading.RLock()

        def forward(self, x: Tensor) -> Tensor:
            with self.lock:
                return self.o(self.a(x).relu())

    plan = rc.plan(Guarded(), INPUTS, HALF, "random")
    assert plan.rows[0].width < 32
    half = Guarded().bfloat16()
    assert rc.plan(half, INPUTS.bfloat16(), HALF, "random").rows[0].width < 32


def test_copies_do_not_count_for_the_silenced_reference() -> None:
    """Whether a reshape copies depends on strides, which differ between a recording and a run."""

    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.q, self.k, self.v, self.o = (nn.Linear(32, 32) for _ in range(4))

        def forward(self, y: Tensor, pos: Tensor) -> Tensor:
            z = pos + y
            q, k, v = [t.view(*y.shape[:-1], -1, 8).transpose(1, 2) for t in (self.q(z), self.k(z), self.v(y))]
            mixed = nn.functional.scaled_dot_product_attention(q, k, v)
            return self.o(mixed.transpose(1, 2).reshape(*y.shape[:-1], -1))

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.e, self.l = nn.Parameter(torch.randn(6, 64)), Attention()
            self.n, self.x, self.c = nn.LayerNorm(32), nn.Linear(32, 32), nn.Linear(32, 3)

        def forward(self, x: Tensor) -> Tensor:
            pos, t = (part.unsqueeze(0).expand(len(x), -1, -1) for part in self.e.split(32, 1))
            t = self.n(t + self.l(t, pos))
            return self.c(t + (t @ self.x(x).transpose(1, 2)).softmax(-1) @ self.x(x))

    torch.manual_seed(0)
    model, inputs = Net().eval(), torch.randn(2, 7, 32)
    plan = rc.plan(model, inputs, rc.Budget(params=0.5), "random")
    assert plan.sites and error(plan, model, inputs) < TOLERANCE
    assert error(Plan.from_dict(plan.to_dict()), model, torch.randn(5, 7, 32)) < TOLERANCE


def test_a_number_set_in_place_is_one_call_on_every_device() -> None:
    class Sets(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.o = nn.Linear(12, 32), nn.Linear(32, 5)

        def forward(self, x: Tensor) -> Tensor:
            h = self.a(x).relu()
            scale = h.new_ones(3, 1)
            scale[1] = h.shape[1]
            scale[torch.tensor([2])] = h.shape[1] * 0.5
            return self.o(h * scale[1:2] + scale[2:])

    model = Sets().eval()
    plan = rc.plan(model, INPUTS, HALF, "random")
    assert plan.rows[0].width < 32 and error(plan, model) < TOLERANCE


def test_relative_error_of_values_that_are_not_finite() -> None:
    one = torch.tensor([1.0, float("inf"), 2.0])
    assert relative_error(one, one) == 0.0
    assert relative_error(one, torch.tensor([1.0, 3.0, 2.0])) == float("inf")
    assert relative_error(one, torch.tensor([1.0, float("-inf"), 2.0])) == float("inf")
    assert relative_error(one, torch.tensor([1.0, float("nan"), 2.0])) == float("inf")
    nothing = torch.tensor([1.0, float("nan"), 2.0])
    assert relative_error(nothing, nothing.clone()) == 0.0
    assert relative_error(torch.tensor([1]), torch.tensor([2])) == float("inf")


def test_a_plan_of_a_model_on_meta_applies_to_real_weights() -> None:
    with torch.device("meta"):
        model = Mirrored()
    plan = rc.plan(model, INPUTS, HALF)
    assert "the model has no values (meta)" in plan.notes[-1] and not plan.spread
    assert plan.slices == rc.plan(Mirrored(), INPUTS, HALF).slices
    real = Mirrored().eval()
    assert error(plan, real) < TOLERANCE
    report = rc.rectify(plan.apply(real), plan, INPUTS, how="reinit")
    assert all(row.dense is None for row in report.rows)


def test_a_choice_that_rounding_decides_is_no_difference() -> None:
    torch.manual_seed(0)
    model = ChoosesByRounding().eval()
    plan = rc.plan(model, INPUTS, rc.Budget(params="2x"), "random")
    assert {row.name: row.width for row in plan.rows}.keys() == {"stem", "body"}, "nothing is pinned"
    assert any("rounding decides what is chosen (argmax in the model itself)" in note for note in plan.notes)


@pytest.mark.usefixtures("own_rules")
def test_a_wrong_choice_is_a_difference() -> None:
    RULES["flip"] = wrong_flip
    torch.manual_seed(0)
    model = ChoosesInReverse().eval()
    blind = rc.plan(model, INPUTS, HALF, "random", verify=False)
    assert error(blind, model) > 1e-2
    plan = rc.plan(model, INPUTS, HALF, "random")
    assert error(plan, model) < TOLERANCE
    assert not any("rounding" in note for note in plan.notes)
