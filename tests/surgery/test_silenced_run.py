"""The silenced network that runs on the dense model computes what ``Plan.mask`` computes, and leaves no trace."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import Tensor, nn

import reconvene as rc
from reconvene.surgery import silenced_run
from reconvene.surgery.silenced_run import run_silenced, zeroed

INPUTS = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Head(nn.Module):
    """Reads its weight past autograd, twice, and the second time through a view that no call makes."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.norm = nn.Linear(24, 32), nn.LayerNorm(32)
        self.down = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(torch.sigmoid(self.up(x)))
        return x @ self.down.weight.data.t() + nn.functional.linear(x, self.down.weight.detach()) + self.down.bias


def network() -> nn.Module:
    torch.manual_seed(0)
    stem = nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.Softplus(), nn.Conv2d(16, 24, 3), nn.ReLU()
    return nn.Sequential(*stem, nn.AdaptiveAvgPool2d(1), nn.Flatten(), Head())


def flat(model: nn.Module) -> nn.Module:
    """The model with all its weights as views of one storage."""
    parameters = list(model.parameters())
    storage = torch.cat([p.detach().reshape(-1) for p in parameters])
    start = 0
    for parameter in parameters:
        parameter.data = storage[start : start + parameter.numel()].view(parameter.shape)
        start += parameter.numel()
    return model


@pytest.mark.parametrize("held", [0, 1 << 30])
@pytest.mark.parametrize("change", [lambda model: model, flat], ids=["plain", "one storage"])
def test_it_computes_what_the_mask_computes(change: object, held: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(silenced_run, "HELD_BYTES", held)
    model = change(network())  # type: ignore[operator]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    plan = rc.plan(model, INPUTS, rc.Budget(params="3x"))
    with torch.no_grad():
        expected = plan.mask(model).eval()(INPUTS)
        torch.testing.assert_close(run_silenced(plan, model, INPUTS.clone(), {}), expected)
        assert not torch.allclose(model.eval()(INPUTS), expected, rtol=1e-3), "the plan removes nothing that counts"
    model.train()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_zeroed_keeps_what_stays() -> None:
    tensor = torch.arange(1.0, 25).reshape(2, 3, 4)
    out = zeroed(tensor, {0: "1", 2: "0-1,3"})
    assert out[1, :, [0, 1, 3]].equal(tensor[1, :, [0, 1, 3]])
    assert int((out != 0).sum()) == 9
    assert tensor.min() == 1


def test_a_plan_does_not_import_the_compiler() -> None:
    code = (
        "import sys, torch, reconvene as rc; from torch import nn;"
        "model = nn.Sequential(nn.Linear(8, 16), nn.LayerNorm(16), nn.Linear(16, 4));"
        "rc.prune(model, torch.ones(1, 8), rc.Budget(params='2x'));"
        "print({'torch._dynamo', 'sympy'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()", "both take seconds, and a plan needs neither"


def test_a_compiled_part_is_planned_as_its_original() -> None:
    def build() -> nn.Sequential:
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(8, 16), nn.Sequential(nn.Linear(16, 16), nn.ReLU()), nn.Linear(16, 8))

    original, compiled = build(), build()
    compiled[1] = torch.compile(compiled[1], backend="eager")
    plans = [rc.plan(model, torch.ones(1, 8), rc.Budget(params="2x")) for model in (original, compiled)]
    assert [row.width for row in plans[0].rows] == [row.width for row in plans[1].rows]


class CachesMixing(nn.Module):
    """Normalises over channels that were mixed by a table, which eval mode keeps as LeViT does."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.mix = nn.Linear(8, 16), nn.Parameter(torch.rand(16, 16))
        self.norm, self.last = nn.LayerNorm(16), nn.Linear(16, 4)
        self.table: Tensor | None = None

    def train(self, mode: bool = True) -> CachesMixing:
        super().train(mode)
        self.table = None if mode else self.table
        return self

    def forward(self, x: Tensor) -> Tensor:
        if self.training or self.table is None:
            self.table = self.mix.abs()
        return self.last(self.norm(self.first(x).relu() @ self.table))


def test_a_table_of_an_earlier_run_takes_no_part_in_the_mask() -> None:
    torch.manual_seed(0)
    model, x = CachesMixing().eval(), torch.randn(3, 8)
    with torch.no_grad():
        model(x)
        plan = rc.plan(model, x, rc.Budget(params="2x"))
        model(x)
        silenced, expected = plan.mask(model).eval(), plan.apply(model).eval()(x)
        assert plan.sites and any("mix" in name for name in plan.slices)
        for _ in range(2):
            torch.testing.assert_close(silenced(x), expected)
