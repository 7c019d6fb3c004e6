"""Synaptic operations: by hand, as NeuroBench counts them, and as a budget."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import reconvene as rc
from reconvene.costs.synops import Synops, count_synops
from reconvene.models import MODELS
from support.small_modules import ByKeyword
from support.state_nets import NoneMembrane, X, built

IMAGES = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))
SPIKES = (torch.rand(3, 4, 7, 7, generator=torch.Generator().manual_seed(0)) > 0.7).float()


def by_hand(conv: nn.Conv2d, x: Tensor) -> float:
    """Every active input, every kernel position and output channel that it meets inside the output."""
    (k, _), (s, _), (p, _) = conv.kernel_size, conv.stride, conv.padding
    size = (x.shape[-1] + 2 * p - k) // s + 1
    total = 0
    for _, _, row, column in (x != 0).nonzero().tolist():
        reach = [
            sum(0 <= (place + p - tap) // s < size and (place + p - tap) % s == 0 for tap in range(k))
            for place in (row, column)
        ]
        total += reach[0] * reach[1] * conv.out_channels // conv.groups
    return total / len(x)


@pytest.mark.parametrize(("stride", "padding", "groups"), [(1, 0, 1), (1, 1, 1), (2, 1, 1), (2, 0, 2)])
def test_convolutions_are_counted_exactly(stride: int, padding: int, groups: int) -> None:
    conv = nn.Conv2d(4, 6, 3, stride=stride, padding=padding, groups=groups)
    counted = count_synops(conv, [SPIKES])
    assert counted.mac == 0 and counted.ac == pytest.approx(by_hand(conv, SPIKES), rel=1e-9)
    assert counted.layers[0].rate == pytest.approx(float(SPIKES.mean()))


def test_average_pooling_of_spikes_makes_multiplications_and_zero_weights_none() -> None:
    pooled = nn.Sequential(nn.AvgPool2d(2), nn.Conv2d(4, 6, 3))
    counted = count_synops(pooled, [SPIKES])
    assert counted.ac == 0 and counted.mac == pytest.approx(by_hand(pooled[1], nn.AvgPool2d(2)(SPIKES)), rel=1e-9)
    linear = nn.Linear(4, 3)
    with torch.no_grad():
        linear.weight[1] = 0
    counted = count_synops(linear, [torch.tensor([[1.0, 0, 1, 0], [0, 0, 0, 0]])])
    assert counted.ac == 2 and counted.joules == pytest.approx(2 * 0.9e-12)


def test_batches_may_be_cut_anywhere_and_the_model_is_left_alone() -> None:
    model = built(NoneMembrane)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    whole, cut = count_synops(model, [X], X), count_synops(model, [X[:1], X[1:]], X)
    assert whole.ac == pytest.approx(cut.ac) and whole.mac == pytest.approx(cut.mac) and whole.examples == 2
    assert whole.mac > 0 and model.fire1.mem is None
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert "conv2" in str(whole) and "4.6 pJ a MAC" in str(whole)


def test_a_budget_on_synaptic_operations_is_kept() -> None:
    model = built(NoneMembrane)
    plan = rc.plan(model, X, rc.Budget(synops="2x"), criterion="taylor", data=[(X, torch.tensor([0, 1]))], trained=True)
    dense = count_synops(model, [X], X)
    assert plan.costs["dense"]["synops"] == pytest.approx(dense.ac + dense.mac)
    assert plan.costs["pruned"]["synops"] <= plan.costs["dense"]["synops"] / 2
    with pytest.raises(rc.ReconveneError, match="synops is about data: pass data="):
        rc.plan(model, X, rc.Budget(synops="2x"))


def test_energy_weighs_multiplications_more() -> None:
    model = built(NoneMembrane)
    data = [(X, torch.tensor([0, 1]))]
    plan = rc.plan(model, X, rc.Budget(synop_energy="2x"), criterion="taylor", data=data, trained=True)
    assert plan.costs["dense"]["synop_energy"] == pytest.approx(count_synops(model, [X], X).joules)


def _convolutions(*, pooling: bool) -> nn.Module:
    parts = [nn.Conv2d(4, 6, 3, stride=2, padding=1), nn.ReLU(), *([nn.AvgPool2d(2)] if pooling else [])]
    return nn.Sequential(*parts, nn.Conv2d(6, 5, 2), nn.Flatten(), nn.Linear(5 if pooling else 45, 3))


class SnnTorch(nn.Module):
    """Four time steps of two leaky layers, whose membranes are handed on."""

    def __init__(self) -> None:
        super().__init__()
        snntorch = pytest.importorskip("snntorch")
        self.conv, self.head = nn.Conv2d(4, 6, 3), nn.Linear(150, 3)
        self.leaky, self.last = snntorch.Leaky(beta=0.9), snntorch.Leaky(beta=0.8)

    def forward(self, x: Tensor) -> Tensor:
        membrane, last = self.leaky.init_leaky(), self.last.init_leaky()
        total = x.new_zeros(())
        for _ in range(4):
            spikes, membrane = self.leaky(self.conv(x), membrane)
            spikes, last = self.last(self.head(spikes.flatten(1)), last)
            total = total + spikes
        return total


COUNTED: dict[str, tuple[Callable[[], nn.Module], Tensor]] = {
    "convolutions": (lambda: _convolutions(pooling=False), SPIKES),
    "average pooling": (lambda: _convolutions(pooling=True), SPIKES),
    "snn_vgg": (lambda: MODELS["snn_vgg"](in_channels=3, width=0.0625), IMAGES),
    "snn_resnet18": (lambda: MODELS["snn_resnet18"](in_channels=3, width=0.0625), IMAGES),
    "snntorch": (SnnTorch, SPIKES),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", COUNTED)
def test_neurobench_counts_the_same(name: str) -> None:
    pytest.importorskip("neurobench")
    from neurobench.benchmarks import Benchmark
    from neurobench.metrics.workload import SynapticOperations
    from neurobench.models import TorchModel

    torch.manual_seed(0)
    build, inputs = COUNTED[name]
    model = build().eval()
    counted = count_synops(model, [inputs], inputs)
    data = torch.utils.data.TensorDataset(inputs, torch.zeros(len(inputs)))
    loader = torch.utils.data.DataLoader(data, batch_size=len(inputs))
    metrics = Benchmark(TorchModel(model), loader, [], [], [[], [SynapticOperations]]).run(quiet=True)
    theirs = metrics["SynapticOperations"]
    assert theirs["Effective_ACs"] == pytest.approx(counted.ac) and counted.operations > 0
    assert theirs["Effective_MACs"] == pytest.approx(counted.mac)


def test_rates_updates_and_footprint_are_those_of_the_neurons() -> None:
    model = MODELS["snn_resnet18"](in_channels=3, width=0.0625).eval()
    seen: list[Tensor] = []
    hook = model.stem[2].register_forward_hook(lambda module, args, out: seen.append(out.detach()))
    with torch.no_grad():
        model(X)  # leaves membranes behind, which are no part of the footprint
    hook.remove()
    counted = count_synops(model, [X], X)
    stem = next(neuron for neuron in counted.neurons if neuron.layer == "stem.2")
    assert stem.updates == 4 * seen[0][0].numel() and len(seen) == 4
    assert stem.spikes == pytest.approx(float(torch.stack(seen).sum()) / len(X)) and 0 < stem.rate < 1
    assert counted.membrane_updates == sum(neuron.updates for neuron in counted.neurons)
    held = [*model.parameters(), *model.buffers()]
    assert counted.footprint == sum(tensor.numel() * tensor.element_size() for tensor in held)
    assert counted.to_dict()["ac"] == counted.ac and "Horowitz" in counted.to_dict()["energy_table"]


def test_memory_of_speck_counts_the_next_power_of_two() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 24, 3), nn.ReLU(), nn.Conv2d(24, 40, 3, padding=1), nn.ReLU(), nn.Conv2d(40, 5, 1)
    )
    plan = rc.plan(model, torch.randn(1, 3, 12, 12), rc.Budget(kernel_memory="2x", neuron_memory="1.5x"))
    dense, pruned = plan.costs["dense"], plan.costs["pruned"]
    assert dense["kernel_memory"] == 3 * 16 * 32 + 24 * 16 * 64 + 40 * 1 * 8
    assert dense["neuron_memory"] == (24 + 40 + 5) * 16 * 16
    a, b = (row.width for row in plan.rows)
    assert pruned["kernel_memory"] == 3 * 16 * 2 ** (a - 1).bit_length() + a * 16 * 2 ** (b - 1).bit_length() + b * 8
    assert pruned["kernel_memory"] <= dense["kernel_memory"] / 2


class Stacked(nn.Module):
    """Examples first or time first, in the inputs and in the outputs."""

    def __init__(self, *, time_first: bool, stacked: bool) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 8), nn.Linear(8, 3)
        self.time_first, self.stacked = time_first, stacked

    def forward(self, x: Tensor) -> Tensor:
        steps = [self.last(self.first(x[t] if self.time_first else x).relu()) for t in range(5)]
        return torch.stack(steps) if self.stacked else torch.stack(steps).sum(0)


@pytest.mark.parametrize("stacked", [False, True])
@pytest.mark.parametrize("time_first", [False, True])
@pytest.mark.parametrize("examples", [1, 2, 5, 7])
def test_costs_are_those_of_one_example_wherever_time_stands(examples: int, time_first: bool, stacked: bool) -> None:
    model = Stacked(time_first=time_first, stacked=stacked).eval()
    x = torch.rand(*([5] if time_first else []), examples, 6) + 0.1
    assert rc.measure(model, x).macs == 5 * (6 * 8 + 8 * 3)
    counted = count_synops(model, [x, x])
    assert counted.examples == 2 * examples and counted.layers[0].mac == pytest.approx(5 * 6 * 8)


class Squeezed(nn.Sequential):
    """One example that loses its batch dimension."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.as_tensor(super().forward(x).squeeze(0))


@pytest.mark.parametrize("channels", [1, 3])
def test_one_example_that_loses_its_dimension_is_one(channels: int) -> None:
    model = Squeezed(nn.Conv2d(channels, 8, 3, padding=1), nn.Conv2d(8, channels, 3, padding=1))
    image = torch.rand(1, channels, 16, 16) + 0.1
    assert rc.measure(model, image).macs == 2 * 16 * 16 * 9 * 8 * channels
    assert count_synops(model, [image, image]).examples == 2
    linear = Squeezed(nn.Linear(6, 8))
    assert rc.measure(linear, torch.rand(1, 5, 6)).macs == 5 * 6 * 8


class WholeSequence(nn.Module):
    """``[T, N, ...]`` in and out, read as a whole: its shapes are those of a batch of sequences."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 8)

    def forward(self, x: Tensor) -> Tensor:
        return torch.as_tensor(self.linear(x.flatten(0, 1)).unflatten(0, x.shape[:2]))


def test_the_number_of_targets_is_that_of_the_examples() -> None:
    x = torch.rand(5, 2, 6) + 0.1
    assert count_synops(WholeSequence(), [x]).examples == 5
    counted = count_synops(WholeSequence(), [(x, torch.zeros(2, dtype=torch.long))])
    assert counted.examples == 2 and counted.mac == pytest.approx(5 * 6 * 8)


@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
@pytest.mark.parametrize(
    "norm",
    [nn.utils.weight_norm, nn.utils.parametrizations.weight_norm, nn.utils.parametrizations.spectral_norm],
    ids=["hook", "weight_norm", "spectral_norm"],
)
@pytest.mark.parametrize(
    "layer", [lambda: nn.Linear(6, 8), lambda: nn.Conv1d(6, 8, 1), lambda: nn.ConvTranspose1d(6, 8, 1)]
)
def test_layers_whose_weights_are_computed_count_by_them(
    norm: Callable[[nn.Module], nn.Module], layer: Callable[[], nn.Module]
) -> None:
    model = norm(layer())
    x = torch.rand(2, 6) + 0.1
    counted = count_synops(model, [x if isinstance(model, nn.Linear) else x[..., None]])
    assert counted.mac == pytest.approx(48) and counted.layers[0].rate == 1.0


class Standardised(nn.Conv1d):
    """A weight of mean zero, scaled by one more parameter; ``after`` scales what comes out instead."""

    def __init__(self, *, after: bool) -> None:
        super().__init__(6, 8, 1)
        self.after, self.gain = after, nn.Parameter(torch.full((8, 1, 1), 0.5))

    def forward(self, x: Tensor) -> Tensor:
        if self.after:
            return super().forward(x) * self.gain[:, 0]
        weight = (self.weight - self.weight.mean((1, 2), keepdim=True)) * self.gain
        return nn.functional.conv1d(x, weight, self.bias)


class ByMatrix(nn.Linear):
    """A layer that makes its product without the function of its kind."""

    def __init__(self) -> None:
        super().__init__(6, 8)
        self.gain = nn.Parameter(torch.full((8,), 0.5))

    def forward(self, x: Tensor) -> Tensor:
        return torch.as_tensor(x @ self.weight.T * self.gain + self.bias)


def patched() -> nn.Linear:
    """A layer whose instance has a forward of its own, bound to it, as wrappers make it."""
    layer = nn.Linear(6, 8)
    forward = layer.forward
    layer.forward = lambda x: forward(x)  # type: ignore[method-assign]
    return layer


@pytest.mark.parametrize(
    "layer", [lambda: Standardised(after=False), lambda: Standardised(after=True), ByMatrix, patched]
)
def test_layers_with_more_parameters_or_a_forward_of_their_own_count(layer: Callable[[], nn.Module]) -> None:
    model = layer()
    x = torch.rand(2, 6) + 0.1
    assert count_synops(model, [x if isinstance(model, nn.Linear) else x[..., None]]).mac == pytest.approx(48)


class Attending(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention, self.lstm = nn.MultiheadAttention(8, 2, batch_first=True), nn.LSTM(8, 8, batch_first=True)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return torch.as_tensor(self.head(self.lstm(self.attention(x, x, x)[0])[0].mean(1)))


def test_what_is_not_counted_is_named() -> None:
    counted = count_synops(Attending().eval(), [torch.rand(2, 5, 8)])
    assert counted.uncounted == ("attention", "lstm") and [layer.layer for layer in counted.layers] == ["head"]
    assert "not counted: matrix products of attention, lstm" in str(counted)
    assert Synops.from_dict(counted.to_dict()) == counted
    assert count_synops(nn.Linear(4, 3), [torch.rand(2, 4)]).uncounted == ()


def test_layers_that_are_called_by_keyword_count_and_metrics_has_the_count() -> None:
    counted = rc.metrics.synops(ByKeyword(2), [torch.ones(3, 4)])
    assert (counted.ac, counted.mac) == (8, 0)
