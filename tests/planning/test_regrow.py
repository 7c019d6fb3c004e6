"""Prune and regrow: what goes wrong in regrowth, one test each."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import reconvene as rc
from reconvene.costs.synops import count_synops
from reconvene.planning.regrowth.regrowth import AVERAGE, Regrowth
from reconvene.structure.neurons import neuron
from reconvene.structure.state import clear_state
from support.state_nets import NoneMembrane, X, built

BUDGET = rc.Budget(params="2x")
Y = torch.tensor([0, 1])
neuron(membrane="mem")(NoneMembrane)


def ordinary() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 12, 3),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(192, 5),
    )


MODELS = {"spiking": lambda: built(NoneMembrane), "ordinary": ordinary}
models = pytest.mark.parametrize("kind", MODELS)


def stepped(growth: Regrowth, done: float, lr: float = 0.01) -> None:
    network = growth.network.train()
    clear_state(network)
    network.zero_grad()
    F.cross_entropy(network(X), Y).backward()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter -= lr * parameter.grad
    growth.step(done)


@models
def test_the_cut_equals_the_masked_network_and_keeps_the_budget(kind: str) -> None:
    model = MODELS[kind]()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    growth = Regrowth(model, X, BUDGET)
    for step in range(1, 41):
        stepped(growth, step / 40)
    clear_state(growth.network.eval())
    masked = growth.network(X)
    small = growth.cut()
    assert torch.allclose(small(X), masked, atol=1e-5) and masked.std() > 0
    dense_count, count = (sum(p.numel() for p in m.parameters()) for m in (model, small))
    assert count <= dense_count / 2
    assert [row.width for row in small.reconvene_plan.rows] == growth.targets
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@models
def test_a_masked_channel_has_a_gradient_whatever_its_scale_is(kind: str) -> None:
    growth = Regrowth(MODELS[kind](), X, BUDGET)
    norm = growth.network.norm if kind == "spiking" else growth.network[1]
    growth.alive[0][3] = False
    with torch.no_grad():
        norm.weight[3] = 0.0
        norm.bias[3] = 0.2
    stepped(growth, 0.01, lr=0.0)
    assert growth.gradient[0][3] > 0


def test_the_gradient_is_that_by_the_effective_scale() -> None:
    growth = Regrowth(ordinary().double(), X.double(), BUDGET)
    growth.alive[0][3] = False
    network = growth.network.train()
    network.zero_grad()

    def loss(scale: float) -> float:
        """The loss where the masked channel has this effective scale, and no shift."""

        def add(module: nn.Module, args: Any, out: Tensor) -> Tensor:
            normed = F.batch_norm(args[0], None, None, training=True, eps=module.eps)
            return out + scale * normed * torch.eye(16)[3].view(-1, 1, 1)

        hook = network[1].register_forward_hook(add)
        value = float(F.cross_entropy(network(X.double()), Y))
        hook.remove()
        return value

    F.cross_entropy(network(X.double()), Y).backward()
    got = growth._new_gradient[0][3]
    # ReLU has a kink at zero: the positive side is what a scale would open.
    want = (loss(1e-6) - loss(0.0)) / 1e-6
    assert got != 0.0 and got == pytest.approx(want, rel=1e-3)


def test_what_leaves_in_an_update_cannot_come_back_in_it() -> None:
    growth = Regrowth(ordinary(), X, BUDGET, regrow=0.5)
    growth.alive[0][:4] = False
    growth.activity[0][:] = np.arange(16.0)
    growth.gradient[0][:] = 1.0
    growth.gradient[0][4:8] = 100.0  # they fired until now, so the loss asks for them most
    before = growth.alive[0].copy()
    growth._update(0, 0.5, growth.regrow)
    left = before & ~growth.alive[0]
    back = growth.alive[0] & ~before
    assert left.any() and back.any() and not (left & back).any()
    assert left[4:].any() and back[:4].any()


def test_the_dead_are_not_ranked_by_what_they_did() -> None:
    growth = Regrowth(ordinary(), X, BUDGET, regrow=0.3)
    growth.alive[0][:6] = False
    growth.gradient[0][:] = 0.0
    growth.gradient[0][2] = 1.0
    growth.activity[0][:6] = 100.0
    growth._update(0, 0.1, growth.regrow)
    assert growth.alive[0][2]


def test_a_channel_that_came_back_is_judged_by_what_it_does_since() -> None:
    growth = Regrowth(ordinary(), X, BUDGET, regrow=0.3)
    growth.seen[0][:] = 1000
    growth.alive[0][:6] = False
    growth.gradient[0][2] = 1.0
    growth._update(0, 0.1, growth.regrow)
    left = int(np.flatnonzero(~growth.alive[0][6:])[0]) + 6
    stayed = int(np.flatnonzero(growth.alive[0][6:])[0]) + 6
    for average in (growth.activity, growth.gradient):
        average[0][:] = 1.0
    growth._new_activity[0][:] = growth._new_gradient[0][:] = 5.0
    growth.step(0.0)
    for average in (growth.activity, growth.gradient):
        assert average[0][2] == 5.0 == average[0][left], "what it did before it changed is not a part of its average"
        assert average[0][stayed] == pytest.approx(AVERAGE + 5 * (1 - AVERAGE))


@models
def test_widths_fall_by_the_ramp_then_nothing_changes_and_one_channel_stays(kind: str) -> None:
    growth = Regrowth(MODELS[kind](), X, rc.Budget(params="10x"))
    widths, tail = [], []
    for step in range(1, 41):
        stepped(growth, step / 40)
        widths.append([int(alive.sum()) for alive in growth.alive])
        if step > 24:
            tail.append([alive.copy() for alive in growth.alive])
    assert widths[6] == [len(alive) for alive in growth.alive] and widths[-1] == growth.targets
    assert all(a >= b for one, two in pairwise(widths) for a, b in zip(one, two, strict=True))
    assert all((a == b).all() for alive in tail for a, b in zip(alive, tail[0], strict=True))
    assert min(min(w) for w in widths) >= 1


def test_a_channel_that_the_label_depends_on_comes_back() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.Softplus(), nn.Linear(8, 2))
    x = torch.randn(64, 4)
    growth = Regrowth(model, x, rc.Budget(params="1.3x"), regrow=0.4)
    with torch.no_grad():  # channel 0 alone reads the input that decides
        growth.network[0].weight.zero_()
        growth.network[0].weight[0, 0] = 3.0
        growth.network[0].weight[1:, 1] = 0.1
    growth.alive[0][[0, 5]] = False
    for step in range(5):
        clear_state(growth.network)
        growth.network.zero_grad()
        F.cross_entropy(growth.network(x), (x[:, 0] > 0).long()).backward()
        growth.step(0.01 * step)
    growth._update(0, 0.2, growth.regrow)
    assert growth.gradient[0][0] > growth.gradient[0][5] and growth.alive[0][0]


def test_a_whole_run_learns_and_is_repeated_by_its_seed() -> None:
    x = torch.randn(64, 3, 8, 8, generator=torch.Generator().manual_seed(3))
    y = (x[:, 0].mean((1, 2)) > 0).long()
    runs = [rc.prune_and_regrow(ordinary(), X, BUDGET, train=[(x, y)], epochs=40, seed=1) for _ in range(2)]
    assert all(torch.equal(a, b) for a, b in zip(runs[0].parameters(), runs[1].parameters(), strict=True))
    assert float((runs[0](x).argmax(1) == y).float().mean()) > 0.9


def test_what_a_mask_does_not_silence_is_refused() -> None:
    model = nn.Sequential(nn.Linear(4, 16), nn.Sigmoid(), nn.Linear(16, 2))
    x = torch.randn(8, 4)
    with pytest.raises(rc.ReconveneError, match="as behind a sigmoid"):
        rc.prune_and_regrow(model, x, BUDGET, train=[(x, (x[:, 0] > 0).long())], epochs=2)


@neuron(membrane="mem")
class Smoothed(nn.Module):
    """A spiking neuron with its surrogate in place of the spike: what the gradient of a spiking network is that of."""

    def __init__(self) -> None:
        super().__init__()
        self.mem: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        self.mem = x if self.mem is None else 0.8 * self.mem + x
        spikes = torch.sigmoid(4 * (self.mem - 0.5))
        self.mem = self.mem - 0.5 * spikes
        return spikes


def test_the_gradient_by_a_dead_scale_is_a_finite_difference_of_the_smoothed_network_over_all_time_steps() -> None:
    growth = Regrowth(built(Smoothed).double(), X.double(), BUDGET)
    growth.alive[0][3] = False
    network = growth.network.train()

    def loss(scale: float) -> Tensor:
        def add(module: nn.Module, args: Any, out: Tensor) -> Tensor:
            normed = F.batch_norm(args[0], None, None, training=True, eps=module.eps)
            return out + scale * normed * torch.eye(16)[3].view(-1, 1, 1)

        hook = network.norm.register_forward_hook(add)
        clear_state(network)
        value = F.cross_entropy(network(X.double()), Y)
        hook.remove()
        return value

    loss(0.0).backward()
    got = float(growth._new_gradient[0][3])
    with torch.no_grad():
        want = float(loss(1e-5) - loss(-1e-5)) / 2e-5
    assert got != 0.0 and got == pytest.approx(want, rel=1e-4)


def test_a_single_example_left_over_is_not_trained_on() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 2))
    batches = [(torch.randn(size, 4), torch.zeros(size, dtype=torch.int64)) for size in (16, 16, 1)]
    small = rc.prune_and_regrow(net, torch.randn(2, 4), rc.Budget(params="2x"), train=batches, epochs=2)
    assert small[0].out_features < 16


def test_a_budget_on_synaptic_operations_is_planned_on_the_batches() -> None:
    model = built(NoneMembrane)
    budget = rc.Budget(synops="2x")
    small = rc.prune_and_regrow(model, X, budget, train=[(X, Y)], epochs=2)
    widths = [row.width for row in small.reconvene_plan.rows]
    growth = Regrowth(model, X, budget, data=[X])
    assert widths == growth.targets and growth.goal.criterion == "group_l2"
    assert count_synops(small, [X], X).operations < count_synops(model, [X], X).operations
    with pytest.raises(rc.ReconveneError, match="pass data="):
        Regrowth(model, X, budget)
