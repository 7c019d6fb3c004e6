"""Spiking networks of snnTorch and SpikingJelly; skipped where these are not installed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import reconvene as rc
from reconvene.criteria.channels.score import score_channels
from reconvene.criteria.flow import Flow
from reconvene.structure import analyse

X = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
BUDGET = rc.Budget(params="3x")


class SnnTorch(nn.Module):
    """Convolutions and one kind of snnTorch's neurons, with hidden state or with state that the network passes on."""

    def __init__(self, kind: str, *, hidden: bool) -> None:
        super().__init__()
        self.kind, self.hidden = kind, hidden
        self.conv1, self.norm, self.fire1 = nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), self.neuron(16)
        self.conv2, self.fire2, self.head = nn.Conv2d(16, 24, 3, padding=1), self.neuron(24), nn.Linear(24, 5)

    def neuron(self, channels: int) -> nn.Module:
        snn = pytest.importorskip("snntorch")
        options: dict[str, Any] = {"init_hidden": self.hidden, "beta": 0.8, "threshold": 0.5}
        if self.kind == "Leaky":
            shape = (channels, 1, 1)
            options |= {"beta": torch.full(shape, 0.8), "threshold": torch.full(shape, 0.5)}
            options |= {"learn_beta": True, "learn_threshold": True}
        if self.kind == "Synaptic":
            options |= {"alpha": 0.9}
        if self.kind == "RLeaky":
            options |= {"conv2d_channels": channels, "kernel_size": 3}
        return getattr(snn, self.kind)(**options)

    def forward(self, x: Tensor) -> Tensor:
        from snntorch import utils

        if self.hidden:
            utils.reset(self)
        first, second = (() if self.hidden else _tuple(n.reset_mem()) for n in (self.fire1, self.fire2))
        total = x.new_zeros(())
        for _ in range(3):
            h, first = self.step(self.fire1, self.norm(self.conv1(x)), first)
            h, second = self.step(self.fire2, self.conv2(h), second)
            total = total + self.head(h.mean((2, 3)))
        return total

    def step(self, neuron: nn.Module, x: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        if self.hidden:
            return neuron(x), ()
        out = neuron(x, *state)
        return out[0], out if self.kind == "RLeaky" else out[1:]


def _tuple(value: Any) -> tuple[Tensor, ...]:
    return value if isinstance(value, tuple) else (value,)


class SpikingJelly(nn.Module):
    """SpikingJelly's layers, in single or multi step mode; the caller resets it."""

    def __init__(self, kind: str, *, multi: bool) -> None:
        super().__init__()
        pytest.importorskip("spikingjelly")
        from spikingjelly.activation_based import layer, neuron

        mode, node = "m" if multi else "s", getattr(neuron, kind)
        self.multi = multi
        self.conv1, self.norm = layer.Conv2d(3, 16, 3, padding=1, step_mode=mode), layer.BatchNorm2d(16, step_mode=mode)
        self.fire1 = node(v_threshold=0.3, step_mode=mode)
        self.conv2, self.fire2 = (
            layer.Conv2d(16, 24, 3, padding=1, step_mode=mode),
            node(v_threshold=0.3, step_mode=mode),
        )
        self.head = layer.Linear(24, 5, step_mode=mode)

    def once(self, x: Tensor) -> Tensor:
        return self.head(self.fire2(self.conv2(self.fire1(self.norm(self.conv1(x))))).mean((-1, -2)))

    def forward(self, x: Tensor) -> Tensor:
        if self.multi:
            return self.once(x[None].repeat(3, 1, 1, 1, 1)).sum(0)
        return self.once(x) + self.once(x) + self.once(x)


def _reset(network: nn.Module) -> None:
    for module in network.modules():
        if callable(getattr(type(module), "reset", None)):
            module.reset()


NETS: dict[str, Callable[[], nn.Module]] = {
    **{
        f"snntorch {kind} {'hidden' if hidden else 'explicit'}": lambda k=kind, h=hidden: SnnTorch(k, hidden=h)
        for kind in ("Leaky", "Synaptic", "RLeaky")
        for hidden in (True, False)
    },
    **{
        f"spikingjelly {kind} {'multi' if multi else 'single'}": lambda k=kind, m=multi: SpikingJelly(k, multi=m)
        for kind in ("IFNode", "LIFNode", "ParametricLIFNode")
        for multi in (True, False)
    },
}
nets = pytest.mark.parametrize("name", NETS)


def built(name: str) -> nn.Module:
    torch.manual_seed(0)
    return NETS[name]().eval()


def used(name: str) -> nn.Module:
    """After a training step without its update, and an odd batch."""
    model = built(name).train()
    model(X).square().mean().backward()
    model.zero_grad()
    model.eval()
    model.norm.reset_running_stats()
    _reset(model)
    with torch.no_grad():
        model(X[:1].repeat(7, 1, 1, 1))
    return model


@nets
def test_a_trained_network_has_the_plan_of_a_fresh_one(name: str) -> None:
    plans = [rc.plan(model, X, BUDGET) for model in (built(name), used(name))]
    assert plans[0].to_json() == plans[1].to_json()
    assert all(row.width < row.dense for row in plans[0].rows) and len(plans[0].rows) == 2


@nets
@pytest.mark.parametrize("batch", [1, 7])
def test_small_is_silenced_over_three_calls(name: str, batch: int) -> None:
    model = used(name)
    plan = rc.plan(model, X, BUDGET)
    small, silenced = plan.apply(model), plan.mask(model)
    trains: list[list[Tensor]] = [[], []]
    for network, seen in zip((small, silenced), trains, strict=True):
        network.fire1.register_forward_hook(lambda m, a, out, seen=seen: seen.append(_tuple(out)[0]))
    x = torch.randn(batch, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        for _ in range(3):  # state is carried where the network does not reset itself
            assert torch.allclose(small(x), silenced(x), atol=1e-6)
    kept = torch.from_numpy(plan.keep[next(iter(plan.keep))])
    axis = -3
    assert trains[0] and all(torch.equal(a, b.index_select(axis, kept)) for a, b in zip(*trains, strict=True))


def test_learned_decay_and_threshold_belong_to_the_group() -> None:
    plan = rc.plan(built("snntorch Leaky hidden"), X, BUDGET)
    kept = plan.slices["conv1.weight"][0]
    assert plan.slices["fire1.beta"] == plan.slices["fire1.threshold"] == {0: kept}


@nets
def test_the_flow_of_synflow_is_conserved_in_every_layer(name: str) -> None:
    model = used(name)
    flow = Flow(model, X, small=False)
    sums = [float(view.sum()) for view in flow.layout.views(flow.scores()).values()]
    recurrent = [n for n in flow.layout.names if "recurrent" in n]
    sums = [total for n, total in zip(flow.layout.names, sums, strict=True) if n not in recurrent]
    assert len(sums) == 3 and max(sums) - min(sums) < 1e-4 * max(sums)


@nets
@pytest.mark.parametrize("criterion", ["activity", "spike_rate"])
def test_activity_is_what_a_hook_measures_in_any_order_of_batches(name: str, criterion: str) -> None:
    if name.startswith("spikingjelly"):
        pytest.importorskip("spikingjelly")
    model, batches = used(name), [X, torch.flip(X, (3,))[:1]]
    seen: list[Tensor] = []

    def look(module: nn.Module, args: Any, out: Any) -> None:
        membrane = module.mem if hasattr(module, "mem") else module.v_seq if module.step_mode == "m" else module.v
        value = _tuple(out)[0] if criterion == "spike_rate" else membrane
        seen.append(value.abs().detach().movedim(-3, 0).flatten(1))

    structure = analyse(model, X)
    scores = [score_channels(model, structure, X, criterion, data=data).scores[0] for data in (batches, batches[::-1])]
    if getattr(model, "multi", False):
        model.fire1.store_v_seq = True
    model.fire1.register_forward_hook(look)
    with torch.no_grad():
        for batch in batches:
            _fresh(model)
            model(batch)
    want = torch.cat(seen, dim=1).double().mean(dim=1).numpy()
    assert np.abs(scores[0] - want).max() < 1e-6 and np.abs(scores[0] - scores[1]).max() < 1e-6
    assert want.max() > 0


def _fresh(model: nn.Module) -> None:
    from reconvene.structure.state import clear_state

    clear_state(model)


def test_activity_prunes_a_trained_network() -> None:
    model = used("snntorch Leaky hidden")
    small = rc.prune(model, X, BUDGET, criterion="activity", data=[X], trained=True, rectify="keep")
    kept = small.reconvene_plan.keep["conv1"]
    scores = score_channels(model, analyse(model, X), X, "activity", data=[X]).scores[0]
    assert set(kept) == set(np.argsort(-scores)[: len(kept)])


def test_activity_says_which_layers_have_no_neurons() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3))
    with pytest.raises(rc.ReconveneError, match="no spiking neurons follow the channels of 0"):
        rc.plan(model, X, BUDGET, criterion="activity", data=[X], trained=True)


@nets
def test_prune_and_regrow_cuts_what_it_masked(name: str) -> None:
    batch = (X, torch.tensor([0, 1]))
    small = rc.prune_and_regrow(used(name), X, BUDGET, train=[batch], epochs=40, lr=0.01)
    assert {row.name for row in small.reconvene_plan.rows if row.width < row.dense} == {"conv1", "conv2"}
    assert small.reconvene_plan.criterion == "activity"
    _reset(small)
    assert torch.isfinite(small(X)).all()
