"""The ``nir`` runtime: one time step of a spiking network as a NIR graph, replayed by numpy to check it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from reconvene.deploy.model_io import in_inference, leaves, outputs_of, take_samples
from reconvene.deploy.options import FileOptions
from reconvene.deploy.runtimes.base import Runtime, Session, Written, file_of, imported
from reconvene.deploy.runtimes.nir.graph import INPUT, Signal, StepGraph, node_names, step_graph
from reconvene.deploy.runtimes.nir.nodes import nir_graph
from reconvene.deploy.runtimes.nir.replay import Array, Replay
from reconvene.errors import ExportError, ModelError
from reconvene.structure.capture import record_forward
from reconvene.structure.dynamics import dynamics_of
from reconvene.structure.examples import example_axis
from reconvene.structure.neurons import neurons

OVER: dict[str, Callable[[list[Array]], Array]] = {
    "mean": lambda steps: np.mean(steps, axis=0, dtype=np.float32),
    "sum": lambda steps: np.sum(steps, axis=0, dtype=np.float32),
    "last": lambda steps: steps[-1],
    "stack": np.stack,
}
"""What a network may do with the outputs of a layer in all time steps."""
CLOSE = 0.1
"""Largest difference, as a share of the largest output, at which a way in ``OVER`` is the network's: they differ by
factors, and spikes at the threshold may differ."""


def export_nir(model: nn.Module, example_inputs: Any, path: Path, options: FileOptions) -> Written:
    """Write one time step of ``model`` in eval mode; the metadata say how many steps make a forward pass.

    Raises ExportError, naming the operation that NIR has no node for, or the neuron whose dynamics are not known.
    """
    nir = imported("nir", "spiking", "NIR export")
    inputs = _several(model, example_inputs)
    step = step_graph(model, inputs)
    sources = list(dict.fromkeys(source for signal in step.outputs for source in _layers(signal)))
    graph = nir_graph(model, step, [(name, step.nodes[name].shape) for name in sources])
    steps = step.nodes[sources[0]].steps
    graph.metadata = {"steps": steps, "time_axis": -1 if step.time_axis is None else step.time_axis}
    graph.metadata["outputs"] = json.dumps(_readouts(model, inputs, step, graph))
    nir.write(str(path), graph)
    batch = steps if step.time_axis == 0 else None
    return Written((path,), batch, (*_notes(model, steps), *_dense_notes(step)))


def _several(model: nn.Module, example_inputs: Any) -> Any:
    """Two examples, so that a dimension of one is none of examples; of inputs ``[T, N, ...]`` all time steps."""
    axis = example_axis(record_forward(model, example_inputs)) or 0
    inputs = take_samples(example_inputs, 0, 2) if axis == 0 else example_inputs
    first = leaves(inputs)[0]
    return inputs if first.shape[axis] > 1 else torch.cat([first] * 2, dim=axis)


def _layers(signal: Signal) -> list[str]:
    return [source for source in dict.fromkeys(signal.sources) if source != INPUT]


def _notes(model: nn.Module, steps: int) -> tuple[str, ...]:
    notes = [f"the graph is one time step of {steps}; the file's metadata say how outputs are read"]
    subtracting = [
        name
        for name, (module, _) in neurons(model).items()
        if (dynamics := dynamics_of(module)) is not None and dynamics.reset == "subtract"
    ]
    if subtracting:
        notes.append(
            f"{len(subtracting)} layers of neurons, first {subtracting[0]}, subtract the threshold when they spike, as "
            "their metadata say; NIR's own reset is to a value, and a reader that knows no other gives other spikes"
        )
    return tuple(notes)


def _dense_notes(step: StepGraph) -> list[str]:
    grouped = [name for name, node in step.nodes.items() if node.options.get("groups", 1) > 1]
    if not grouped:
        return []
    return [
        f"{len(grouped)} convolutions with groups, first {grouped[0]}, are written with zeros between their groups: "
        "nir does not take groups"
    ]


def _readouts(model: nn.Module, inputs: Any, step: StepGraph, graph: Any) -> list[dict[str, str]]:
    """How every output is made of a layer's outputs in all steps, found by comparing values. Raises ExportError."""
    with in_inference(model):
        expected = [value.detach().cpu().numpy() for value in outputs_of(model, inputs).values()]
    session = NirSession(graph)
    replayed = session.steps(leaves(inputs)[0].detach().cpu().float().numpy())
    readouts: list[dict[str, str]] = []
    names = node_names(step)
    for position, (signal, value) in enumerate(zip(step.outputs, expected, strict=True)):
        ways = [
            (_difference(OVER[over](replayed[name, kind]), value), {"node": name, "value": kind, "over": over})
            for name in map(names.__getitem__, _layers(signal))
            for kind in (("membrane", "current", "output") if signal.membrane else ("output",))
            if (name, kind) in replayed
            for over in OVER
        ]
        difference, way = min(ways, key=lambda pair: pair[0])
        if difference > CLOSE:
            raise ExportError(
                f"output {position} of {type(model).__name__} is neither mean, sum, last or stack over time steps "
                f"of {', '.join(_layers(signal))}. Export the part of the network that ends there"
            )
        readouts.append(way)
    return readouts


def _difference(first: Array, second: Array) -> float:
    if first.shape != second.shape:
        return float("inf")
    return float(np.abs(first - second).max(initial=0.0) / max(float(np.abs(second).max(initial=0.0)), 1e-12))


class NirSession:
    """A graph replayed by numpy for as many time steps as its metadata say.

    ``batch``: the first dimension of its inputs where that is time steps, ``[T, N, ...]``.
    """

    def __init__(self, graph: Any) -> None:
        self.graph = graph
        self.count, self.time_axis = int(graph.metadata["steps"]), int(graph.metadata["time_axis"])
        self.batch = self.count if self.time_axis == 0 else None

    def steps(self, x: Array) -> dict[tuple[str, str], list[Array]]:
        """What every node gives in every step; of neurons membrane and current as well."""
        replay = Replay(self.graph)
        seen: dict[tuple[str, str], list[Array]] = {}
        for number in range(self.count):
            replay.step(x if self.time_axis < 0 else np.take(x, number, axis=self.time_axis))
            for kind, values in (
                ("output", replay.values),
                ("membrane", replay.membranes),
                ("current", replay.currents),
            ):
                for name, value in values.items():
                    seen.setdefault((name, kind), []).append(value)
        return seen

    def bind(self, example_inputs: Any) -> Callable[[], object]:
        """See Session."""
        return lambda: self.run(example_inputs)

    def run(self, example_inputs: Any) -> dict[str, Tensor]:
        """See Session."""
        seen = self.steps(leaves(example_inputs)[0].detach().cpu().float().numpy())
        readouts = json.loads(self.graph.metadata["outputs"])
        outputs = [OVER[way["over"]](seen[way["node"], way["value"]]) for way in readouts]
        names = ["output", *(f"output_{n}" for n in range(1, len(outputs)))]
        return {name: torch.from_numpy(np.array(value)) for name, value in zip(names, outputs, strict=True)}


@contextmanager
def open_nir(model: nn.Module | Path, threads: int) -> Iterator[Session]:
    """Read a file of ours; numpy takes the threads that it takes."""
    nir = imported("nir", "spiking", "reading a NIR file")
    path = file_of(model, "NIR")
    try:
        graph = nir.read(str(path))
    except (OSError, ValueError, KeyError, AssertionError) as error:
        raise ModelError(f"nir cannot read {path.name}: {error}") from error
    if "outputs" not in graph.metadata:
        raise ModelError(
            f"{path.name} does not say how its outputs are read over time: it was not written by Reconvene"
        )
    yield NirSession(graph)


NIR = Runtime(
    "nir",
    "nir",
    ".nir",
    export_nir,
    None,
    open_nir,
    extra="spiking",
    to_run={"nir": "1.0.8"},
    takes=frozenset({"free_batch"}),
    timed=False,
)
