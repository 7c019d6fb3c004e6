"""Rectification of spiking networks: the drive before the spike, over all time steps, on data."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import reconvene as rc
from reconvene.models import MODELS
from reconvene.rectifier import output_spread

X = torch.randn(1, 1, 16, 16, generator=torch.Generator().manual_seed(0))
BATCHES = [(torch.rand(8, 1, 16, 16, generator=torch.Generator().manual_seed(1)) * 3, torch.arange(8))]


def built() -> torch.nn.Module:
    torch.manual_seed(0)
    return MODELS["snn_vgg"](in_channels=1, width=0.125).eval()


def drives(model: torch.nn.Module, x: torch.Tensor) -> dict[str, list[torch.Tensor]]:
    """What every convolution gives, step by step."""
    seen: dict[str, list[torch.Tensor]] = {}
    layers = {name: module for name, module in model.named_modules() if isinstance(module, torch.nn.Conv2d)}
    hooks = [
        m.register_forward_hook(lambda m, a, out, n=n: seen.setdefault(n, []).append(out)) for n, m in layers.items()
    ]
    with torch.no_grad():
        model(x)
    for hook in hooks:
        hook.remove()
    return seen


def test_the_spread_is_measured_on_the_drive_over_all_time_steps_of_the_data() -> None:
    model = built()
    spreads = output_spread(model, X, data=BATCHES)
    steps = drives(model, BATCHES[0][0])
    assert all(len(of_layer) == 4 for of_layer in steps.values()) and len(steps) == 6
    for name, of_layer in steps.items():
        assert spreads[name] == pytest.approx(float(torch.stack(of_layer).double().std(correction=0)), rel=1e-6)
    first_steps = [float(of_layer[0].std()) for of_layer in steps.values()]
    assert first_steps[-1] < 0.5 * spreads["features.18"], "one step would say too little"


@pytest.mark.parametrize("how", ["reinit", "rescale"])
def test_every_layer_that_was_cut_is_driven_as_in_the_dense_network(how: str) -> None:
    model = built()
    small = rc.prune(model, X, rc.Budget(params="3x"), criterion="snip", data=BATCHES, rectify="keep")
    plan = small.reconvene_plan
    before = {name: weight.clone() for name, weight in small.state_dict().items()}
    report = rc.rectify(small, plan, X, how=how, data=BATCHES)
    cut = [row for row in report.rows if row.touched and row.kind == "Conv2d"]
    assert len(cut) >= 2 and not any("silent" in row.action or "not scaled" in row.action for row in cut)
    assert all(0.98 < row.ratio < 1.02 for row in cut)
    assert any(not torch.equal(value, before[name]) for name, value in small.state_dict().items())
    steps = drives(small.eval(), BATCHES[0][0])
    for row in cut:
        assert float(torch.stack(steps[row.layer]).double().std(correction=0)) == pytest.approx(row.dense, rel=0.02)


def test_a_seed_gives_the_same_network_twice() -> None:
    runs = [rc.prune(built(), X, rc.Budget(params="3x"), criterion="snip", data=iter(BATCHES)) for _ in range(2)]
    assert all(torch.equal(a, b) for a, b in zip(runs[0].parameters(), runs[1].parameters(), strict=True))


class OverSteps(nn.Conv2d):
    """A convolution that is given all time steps at once, ``[T, N, C, H, W]``, as SpikingJelly's are."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.flatten(0, 1)).unflatten(0, x.shape[:2])


class TwoSteps(nn.Module):
    def __init__(self, layer: type[nn.Conv2d]) -> None:
        super().__init__()
        self.first, self.second, self.head = layer(2, 12, 3, padding=1), layer(12, 12, 3, stride=2), nn.Linear(12, 3)
        self.whole = layer is OverSteps

    def forward(self, x: Tensor) -> Tensor:
        steps = torch.stack([x, 0.5 * x])
        steps = steps if self.whole else steps.flatten(0, 1)
        steps = self.second(self.first(steps).relu()).relu().mean((-1, -2))
        return torch.as_tensor(self.head(steps if self.whole else steps.unflatten(0, (2, len(x))))).mean(0)


def test_layers_that_are_given_all_time_steps_are_reconstructed_as_others() -> None:
    networks = []
    for layer in (OverSteps, nn.Conv2d):
        torch.manual_seed(0)
        model, x = TwoSteps(layer).eval(), torch.randn(24, 2, 8, 8)
        budget = rc.Budget(params="2x")
        networks.append(
            rc.prune(model, x[:4], budget, data=[(x, torch.arange(24) % 3)], trained=True, rectify="reconstruct")
        )
    for ours, expected in zip(*(network.state_dict().values() for network in networks), strict=True):
        assert torch.allclose(ours, expected, atol=1e-4)
    assert not torch.equal(networks[0].second.weight, model.second.weight[: len(networks[0].second.weight)])
