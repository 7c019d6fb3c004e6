"""NIR files of spiking networks: read back by ``nir``, and replayed by thirty lines of numpy to the same spikes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import reconvene as rc
from reconvene.deploy.exporter import run_file
from reconvene.models import MODELS
from reconvene.models.spiking import LeakyNeuron
from reconvene.structure.dynamics import Dynamics
from reconvene.structure.neurons import neuron, neurons, spikes_in
from reconvene.structure.state import clear_state

nir = pytest.importorskip("nir")
X = torch.randn(3, 2, 16, 16, generator=torch.Generator().manual_seed(0))


def replay(graph: Any, x: np.ndarray, steps: int) -> dict[str, list[np.ndarray]]:
    """Spikes of every layer of neurons in every step, from the file alone."""
    windows = np.lib.stride_tricks.sliding_window_view
    value, v, spikes = {}, {}, {}
    for _ in range(steps):
        waiting = list(graph.nodes)
        while waiting:
            name = next(
                n for n in waiting if not any(b == n and a in waiting for a, b in graph.edges if "recurrent" not in b)
            )
            waiting.remove(name)
            node, kind = graph.nodes[name], type(graph.nodes[name]).__name__
            silent = {
                a: np.zeros((len(x), *n.v_threshold.shape)) for a, n in graph.nodes.items() if "IF" in type(n).__name__
            }
            sources = [value[a] if a in value else silent[a] for a, b in graph.edges if b == name]
            y = x if kind == "Input" else sum(sources)
            if kind in ("Conv2d", "AvgPool2d", "SumPool2d"):
                size = node.weight.shape[2:] if kind == "Conv2d" else node.kernel_size
                (ph, pw), (sh, sw) = node.padding, node.stride
                y = windows(np.pad(y, ((0, 0), (0, 0), (ph, ph), (pw, pw))), tuple(size), (2, 3))[:, :, ::sh, ::sw]
                if kind == "Conv2d":
                    y = np.einsum("nchwij,ocij->nohw", y, node.weight, optimize=True) + node.bias[:, None, None]
                else:
                    y = y.sum((4, 5)) if kind == "SumPool2d" else y.mean((4, 5))
            elif kind == "Flatten":
                y = y.reshape(len(y), -1)
            elif kind in ("Linear", "Affine"):
                y = y @ node.weight.T + getattr(node, "bias", 0)
            elif kind == "Scale":
                y = y * node.scale
            elif kind == "Threshold":
                y = (y > node.threshold).astype(np.float32)
            elif kind in ("LIF", "IF"):
                rate, leak = node.metadata["dt"] / getattr(node, "tau", np.inf), getattr(node, "v_leak", 0)
                resistance = node.r * (rate if kind == "LIF" else node.metadata["dt"])
                before = v.get(name, leak + 0 * y)
                v[name] = leak + (1 - rate) * (before - leak) + resistance * y
                if node.metadata["reset_delayed"]:
                    v[name] = v[name] - node.v_threshold * (before > node.v_threshold)
                y = (v[name] > node.v_threshold).astype(np.float32)
                if not node.metadata["reset_delayed"]:
                    subtract = node.metadata["reset"] == "subtract"
                    v[name] = v[name] - y * node.v_threshold if subtract else np.where(y > 0, node.v_reset, v[name])
                spikes.setdefault(name, []).append(y)
            value[name] = y
    return spikes


@neuron(membrane="mem", dynamics=lambda m: Dynamics(m.decay, 0.5))
class SoftReset(nn.Module):
    """A neuron of one's own, which subtracts the threshold at once."""

    def __init__(self) -> None:
        super().__init__()
        self.mem, self.decay = None, 0.8

    def forward(self, drive: Tensor) -> Tensor:
        self.mem = drive if self.mem is None else self.decay * self.mem + drive
        spikes = (self.mem > 0.5).to(drive.dtype)
        self.mem = self.mem - 0.5 * spikes
        return spikes


class Strided(nn.Module):
    """Strides, padding, average pooling, a norm without scale; the caller resets the neurons."""

    def __init__(self, fire: Callable[[int], nn.Module]) -> None:
        super().__init__()
        self.conv1, self.norm1, self.fire1 = nn.Conv2d(2, 8, 5, 2, 2), nn.BatchNorm2d(8, affine=False), fire(8)
        self.pool = nn.AvgPool2d(2)
        self.conv2, self.norm2, self.fire2 = nn.Conv2d(8, 12, 3, bias=False), nn.BatchNorm2d(12), fire(12)
        self.head = nn.Linear(48, 5)

    def forward(self, x: Tensor) -> Tensor:
        seen = []
        for _ in range(3):
            h = self.pool(self.fire1(self.norm1(self.conv1(x))))
            seen.append(self.head(self.fire2(self.norm2(self.conv2(h))).flatten(1)))
        return torch.stack(seen).sum(0)


def snntorch_leaky(channels: int, **options: Any) -> nn.Module:
    decay = torch.linspace(0.5, 0.9, channels).view(-1, 1, 1)
    return pytest.importorskip("snntorch").Leaky(decay, 0.4, init_hidden=True, learn_beta=True, **options)


def snntorch_recurrent(channels: int, **options: Any) -> nn.Module:
    """Its spikes come back through a convolution, or each to its own neuron."""
    decay = torch.linspace(0.5, 0.9, channels).view(-1, 1, 1)
    return pytest.importorskip("snntorch").RLeaky(decay, threshold=0.4, init_hidden=True, **options)


def spikingjelly(kind: str, **options: Any) -> nn.Module:
    pytest.importorskip("spikingjelly")
    from spikingjelly.activation_based import neuron as neurons_of_spikingjelly

    return getattr(neurons_of_spikingjelly, kind)(v_threshold=0.25, **options)


class Grouped(nn.Module):
    """A depthwise and a grouped convolution, and a recurrent layer whose spikes come back through a linear one."""

    def __init__(self) -> None:
        super().__init__()
        self.depthwise, self.fire1 = nn.Conv2d(2, 6, 3, 2, 1, groups=2), LeakyNeuron(0.6, 0.3, channels=6)
        self.grouped, self.norm = nn.Conv2d(6, 9, 3, 2, groups=3), nn.BatchNorm2d(9)
        self.fire2, self.middle = LeakyNeuron(0.6, 0.3, channels=9), nn.Linear(81, 12)
        self.fire3 = pytest.importorskip("snntorch").RLeaky(0.8, linear_features=12, threshold=0.2, init_hidden=True)
        self.head = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        seen = []
        for _ in range(4):
            h = self.fire2(self.norm(self.grouped(self.fire1(self.depthwise(x)))))
            seen.append(self.head(self.fire3(self.middle(h.flatten(1)))))
        return torch.stack(seen).mean(0)


FIRES: dict[str, Callable[[int], nn.Module]] = {
    "ours": lambda channels: LeakyNeuron(0.6, 0.4, channels=channels),
    "registered": lambda channels: SoftReset(),
    "snntorch subtract": snntorch_leaky,
    "snntorch zero": lambda channels: snntorch_leaky(channels, reset_mechanism="zero"),
    "snntorch recurrent": lambda channels: snntorch_recurrent(channels, conv2d_channels=channels, kernel_size=3),
    "snntorch one to one": lambda channels: snntorch_recurrent(
        channels, all_to_all=False, V=torch.linspace(-0.5, 0.5, channels).view(-1, 1, 1)
    ),
    "spikingjelly IF": lambda channels: spikingjelly("IFNode"),
    "spikingjelly LIF": lambda channels: spikingjelly("LIFNode", v_reset=0.1),
    "spikingjelly soft": lambda channels: spikingjelly("LIFNode", v_reset=None, decay_input=False),
    "spikingjelly parametric": lambda channels: spikingjelly("ParametricLIFNode"),
}
NETS: dict[str, Callable[[], nn.Module]] = {
    "snn_vgg": lambda: MODELS["snn_vgg"](in_channels=2, width=0.125),
    "snn_resnet18": lambda: MODELS["snn_resnet18"](in_channels=2, width=0.0625),
    "grouped": Grouped,
    **{f"strided {name}": lambda fire=fire: Strided(fire) for name, fire in FIRES.items()},
}


def built(name: str) -> nn.Module:
    """A network whose norms have seen data, so that folding them is no identity."""
    torch.manual_seed(0)
    model = NETS[name]().train()
    with torch.no_grad():
        model(X)
    return model.eval()


@pytest.mark.parametrize("name", NETS)
def test_thirty_lines_of_numpy_replay_a_file_to_the_same_spikes(name: str, tmp_path: Path) -> None:
    model = built(name)
    exported = rc.export(model, tmp_path, format="nir", example_inputs=X)
    assert exported.path.name == "model.nir" and exported.verification.max_rel_error < 1e-4
    seen: dict[str, list[np.ndarray]] = {}
    for path, (module, _) in neurons(model).items():
        module.register_forward_hook(lambda m, a, out, p=path: seen.setdefault(p, []).append(spikes_in(out).numpy()))
    clear_state(model)
    with torch.no_grad():
        model(X)
    graph = nir.read(str(exported.path))
    steps = int(graph.metadata["steps"])
    replayed = replay(graph, X.numpy(), steps)
    assert replayed.keys() == seen.keys() and steps == len(next(iter(seen.values())))
    for path, trains in seen.items():
        assert all(np.array_equal(a, b) for a, b in zip(trains, replayed[path], strict=True)), path
    assert all(0 < np.mean(trains) < 1 for trains in list(seen.values())[:2])


def test_a_pruned_network_has_a_smaller_file_of_the_same_bytes_twice(tmp_path: Path) -> None:
    model = built("snn_vgg")
    small = rc.prune(model, X, rc.Budget(params="3x"), trained=True)
    paths = [rc.export(small, tmp_path, format="nir", example_inputs=X, name=name).path for name in ("a", "b")]
    assert paths[0].read_bytes() == paths[1].read_bytes()
    widths = [row.width for row in small.reconvene_plan.rows]
    convolutions = [node for node in nir.read(str(paths[0])).nodes.values() if isinstance(node, nir.Conv2d)]
    assert sorted(len(node.weight) for node in convolutions) == sorted(widths)
    outputs = run_file(paths[0], X)
    assert torch.allclose(outputs["output"], small(X), atol=1e-5)


def test_membranes_and_inputs_of_every_step_are_read(tmp_path: Path) -> None:
    snntorch = pytest.importorskip("snntorch")

    class Recorded(nn.Module):
        """Inputs by time step, outputs by time step: spikes and membranes, as in snnTorch's tutorials."""

        def __init__(self) -> None:
            super().__init__()
            self.fc, self.fire = nn.Linear(6, 4), snntorch.Leaky(0.8, threshold=0.2)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            mem, spikes, membranes = self.fire.reset_mem(), [], []
            for step in range(x.shape[1]):
                spike, mem = self.fire(self.fc(x[:, step]), mem)
                spikes.append(spike)
                membranes.append(mem)
            return torch.stack(spikes), torch.stack(membranes)

    torch.manual_seed(0)
    exported = rc.export(Recorded().eval(), tmp_path, format="nir", example_inputs=torch.randn(3, 5, 6), verify=False)
    x = torch.randn(4, 5, 6)
    torch.manual_seed(0)
    expected = Recorded().eval()(x)
    for got, want in zip(run_file(exported.path, x).values(), expected, strict=True):
        assert got.shape == want.shape and torch.allclose(got, want, atol=1e-6)


class TimeFirst(nn.Module):
    """Inputs ``[T, N, ...]``; its layers have the names of the graph's own nodes."""

    def __init__(self, *, stacked: bool) -> None:
        super().__init__()
        self.input, self.fire, self.output = nn.Linear(6, 8), LeakyNeuron(), nn.Linear(8, 3)
        self.stacked = stacked

    def forward(self, x: Tensor) -> Tensor:
        self.fire.reset()
        steps = torch.stack([self.output(self.fire(self.input(x[t]))) for t in range(len(x))])
        return steps if self.stacked else steps.mean(0)


@pytest.mark.parametrize("stacked", [False, True])
@pytest.mark.parametrize("examples", [1, 4])
def test_time_may_come_first_and_layers_may_be_called_input_and_output(
    stacked: bool, examples: int, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    model = TimeFirst(stacked=stacked).eval()
    exported = rc.export(model, tmp_path, format="nir", example_inputs=torch.rand(7, examples, 6))
    x = torch.rand(7, examples, 6)
    graph = nir.read(str(exported.path))
    assert int(graph.metadata["steps"]) == 7 and int(graph.metadata["time_axis"]) == 0
    assert torch.allclose(run_file(exported.path, x)["output"], model(x), atol=1e-5)


class Refused(nn.Module):
    def __init__(self, name: str) -> None:
        super().__init__()
        self.name, self.conv, self.fire = name, nn.Conv2d(2, 4, 3), LeakyNeuron()
        self.pool, self.norm = nn.MaxPool2d(2), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv(x)
        if self.name == "pool":
            return self.fire(self.pool(h)) + self.fire(self.pool(h))
        if self.name == "norm":
            return self.fire(self.norm(torch.nn.functional.avg_pool2d(h, 2)))
        return self.fire(torch.sigmoid(h))


@pytest.mark.parametrize(
    ("name", "words"),
    [("pool", "NIR has no max pooling"), ("norm", "cannot be folded"), ("sigmoid", "NIR has no node for sigmoid")],
)
def test_what_nir_has_no_node_for_is_named(name: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(rc.ReconveneError, match=words):
        rc.export(Refused(name).eval(), tmp_path, format="nir", example_inputs=X)
    assert not list(tmp_path.iterdir())
