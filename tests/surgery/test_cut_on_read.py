"""The small network of the final comparison holds no copy of large weights, and computes what ``apply`` gives."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import reconvene as rc
from reconvene.structure.rules import RULES
from reconvene.surgery import Plan, cut_on_read
from reconvene.surgery.call_comparison import TOLERANCE, relative_error
from reconvene.surgery.cut_on_read import apply_on_read


class Tied(nn.Module):
    """A table of words that is the last layer's weight, too, and a recurrence between them."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(40, 32)
        self.body = nn.Linear(32, 48)
        self.recurrence = nn.GRU(48, 32, batch_first=True)
        self.head = nn.Linear(32, 40, bias=False)
        self.head.weight = self.words.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.recurrence(self.body(self.words(x)).relu())[0])


class Asking(nn.Module):
    """Asks its first parameter for device and dtype, and its last for a width, as many models do."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(16, 64), nn.Linear(64, 8)

    def forward(self, x: Tensor) -> Tensor:
        first = next(self.parameters())
        x = x.to(first.device, first.dtype)
        hidden = self.first(x).relu()
        return self.last(hidden / len(self.last.weight))


CASES = {
    "convolutions": (
        nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 8, 3)),
        torch.randn(2, 3, 8, 8),
    ),
    "tied": (Tied(), torch.arange(10).reshape(2, 5)),
    "asking": (Asking(), torch.randn(2, 16)),
}


def _error(plan: Plan, model: nn.Module, x: Tensor) -> float:
    with torch.no_grad():
        return relative_error(plan.apply(model).eval()(x), plan.mask(model).eval()(x))


@pytest.fixture(autouse=True)
def every_weight_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cut_on_read, "LARGE", 1)


@pytest.mark.parametrize("name", CASES)
def test_a_plan_is_verified(name: str) -> None:
    model, x = CASES[name]
    before = {key: value.clone() for key, value in model.state_dict().items()}
    plan = rc.plan(model.eval(), x, rc.Budget(params="1.5x"), criterion="magnitude")
    assert _error(plan, model, x) < TOLERANCE
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("name", CASES)
def test_it_computes_what_the_copy_computes(name: str) -> None:
    model, x = CASES[name]
    plan = rc.plan(model.eval(), x, rc.Budget(params="1.5x"), criterion="magnitude")
    small, late = plan.apply(model).eval(), apply_on_read(plan, model, ()).eval()
    with torch.no_grad():
        assert torch.equal(late(x), small(x))


def test_large_weights_take_no_memory_until_they_are_read() -> None:
    model = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 64))
    plan = rc.plan(model, torch.randn(2, 64), rc.Budget(params="2x"))
    late = apply_on_read(plan, model, {"0.bias"})
    sizes = {name: p.untyped_storage().nbytes() // p.element_size() for name, p in late.named_parameters()}
    small = plan.apply(model)
    assert sizes == {"0.weight": 1, "0.bias": small[0].out_features, "2.weight": 1, "2.bias": 1}
    assert torch.equal(late[0].weight, small[0].weight)
    assert late[0].weight.shape == dict(late.named_parameters())["0.weight"].shape


class Mirrored(nn.Module):
    """Adds channels to the same channels in reverse order."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.middle, self.last = nn.Linear(12, 32), nn.Linear(32, 32), nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.middle(self.first(x).relu())
        return self.last((hidden + hidden.flip(1)).relu())


def test_a_wrong_rule_shows_in_weights_that_are_cut_late(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(RULES, "flip", lambda context, call: context.set_like(call, call.args[0]))
    torch.manual_seed(0)
    model, x = Mirrored().eval(), torch.randn(2, 12)
    blind = rc.plan(model, x, rc.Budget(params=0.6), "random", verify=False)
    seeing = rc.plan(model, x, rc.Budget(params=0.6), "random")
    errors = [_error(plan, model, x) for plan in (blind, seeing)]
    assert errors[0] > 1e-2 and errors[1] < TOLERANCE
