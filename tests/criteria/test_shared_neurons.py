"""One module of neurons behind several layers: its calls are told apart, or refused by its name."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import reconvene as rc
from reconvene.criteria.channels.score import score_channels
from reconvene.errors import CriterionError
from reconvene.planning.regrowth.regrowth import Regrowth
from reconvene.structure import analyse
from reconvene.structure.neurons import neuron

X = torch.rand(16, 6, generator=torch.Generator().manual_seed(0))
DRIVES = {"c1": [0.9, 0.8, 0.1, 0.05], "c2": [0.1, 0.1, 50.0, 60.0]}


@neuron(membrane="mem")
class Explicit(nn.Module):
    """A neuron that is given its membrane, so that one of them does for all layers."""

    mem: Tensor

    def forward(self, drive: Tensor, mem: Tensor | float) -> tuple[Tensor, Tensor]:
        self.mem = 0.8 * mem + drive
        return (self.mem > 1).to(drive), self.mem


class Shared(nn.Module):
    def __init__(self, *, shared: bool = True) -> None:
        super().__init__()
        self.c1, self.c2, self.fc, self.fire = nn.Linear(6, 4), nn.Linear(4, 4), nn.Linear(4, 3), Explicit()
        self.fire2 = self.fire if shared else Explicit()
        self.steps = 4
        with torch.no_grad():
            for name, drive in DRIVES.items():
                self.get_submodule(name).weight.zero_()
                self.get_submodule(name).bias.copy_(torch.tensor(drive))

    def forward(self, x: Tensor) -> Tensor:
        mem1: Tensor | float = 0.0
        mem2: Tensor | float = 0.0
        total = x.new_zeros(())
        for _ in range(self.steps):
            spikes, mem1 = self.fire(self.c1(x), mem1)
            spikes, mem2 = self.fire2(self.c2(spikes), mem2)
            total = total + self.fc(spikes)
        return total


@pytest.mark.parametrize("criterion", ["activity", "spike_rate"])
def test_shared_neurons_score_as_neurons_of_their_own(criterion: str) -> None:
    shared, apart = Shared().eval(), Shared(shared=False).eval()
    scores = [score_channels(m, analyse(m, X), X, criterion, data=[X, X[:3]]).scores for m in (shared, apart)]
    for ours, expected in zip(*scores, strict=True):
        np.testing.assert_allclose(ours, expected)
    plan = rc.plan(shared, X, rc.Budget(params="1.2x"), criterion=criterion, data=[X], trained=True, widths={"c1": 2})
    assert plan.rows[0].keep == "0-1"


def test_calls_beyond_those_of_the_example_are_refused_by_name() -> None:
    model = Shared().eval()
    structure = analyse(model, X)
    model.steps = 5
    with pytest.raises(CriterionError, match="fire is used behind several layers, and is called more often"):
        score_channels(model, structure, X, "activity", data=[X])


def test_regrowth_sees_each_layer_by_itself() -> None:
    growths = [Regrowth(Shared(shared=shared), X, rc.Budget(params="1.5x")) for shared in (True, False)]
    for growth in growths:
        for done in (0.1, 0.2):
            growth.network(X).sum().backward()
            growth.step(done)
    for ours, expected in zip(*(growth.activity for growth in growths), strict=True):
        np.testing.assert_allclose(ours, expected)
