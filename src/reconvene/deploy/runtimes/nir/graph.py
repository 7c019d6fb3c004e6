"""A spiking network as the graph of one time step, read off a recorded forward pass."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from reconvene.errors import ExportError
from reconvene.structure.capture import record_forward
from reconvene.structure.inputs import tensors_in
from reconvene.structure.neurons import neurons
from reconvene.structure.recording import Op, Recording

INPUT = "<input>"
"""Stands for the input of the network among the names of layers, one of which may be ``input``."""

_OUTPUTS = re.compile(r"output(_\d+)?")


@dataclass
class Node:
    """One node of a time step.

    Attributes:
        kind: ``convolution``, ``linear``, ``neuron``, ``average``, ``sum``, ``any`` (whether a sum is not zero) or
            ``flatten``.
        sources: nodes whose outputs are added to be its input.
        before: shape of its input for one example.
        shape: shape of its output for one example.
        options: names of parameters, strides and the like.
        steps: how many time steps it computes in a forward pass.
        norm: names of the parameters of the batch norm behind it, and its epsilon.
        read_raw: whether something reads its output before a norm.
    """

    kind: str
    sources: tuple[str, ...]
    before: tuple[int, ...]
    shape: tuple[int, ...]
    options: dict[str, Any]
    steps: int = 0
    norm: dict[str, Any] | None = None
    read_raw: bool = False


@dataclass(frozen=True)
class Signal:
    """What a tensor holds: the sum of the outputs of nodes, ``shape`` an example and ``count`` of these.

    ``raw`` names nodes of which it is the output itself, before any norm; ``outside`` the operation that no node stands
    for; ``membrane`` says that it holds membranes.
    """

    sources: tuple[str, ...]
    shape: tuple[int, ...]
    count: int
    raw: frozenset[str] = frozenset()
    outside: str = ""
    membrane: bool = False


@dataclass
class StepGraph:
    """The nodes of one time step by name, in an order in which they can run, and what the outputs are made of.

    ``time_axis`` is that of the network's input, 0 or 1; ``None``: every step is given the whole input.
    """

    nodes: dict[str, Node] = field(default_factory=dict)
    outputs: list[Signal] = field(default_factory=list)
    input_shape: tuple[int, ...] = ()
    time_axis: int | None = None


def node_names(step: StepGraph) -> dict[str, str]:
    """The name of every node in a file: that of its layer, unless the input or an output of the graph has it."""
    names = {INPUT: "input"}
    for layer in step.nodes:
        name = layer.replace(INPUT, names[INPUT])
        while name in names.values() or _OUTPUTS.fullmatch(name):
            name += "_layer"
        names[layer] = name
    return names


def step_graph(model: nn.Module, example_inputs: Any) -> StepGraph:
    """The graph of one time step. Raises ExportError, naming the operation that NIR has no node for."""
    recording = record_forward(model, example_inputs)
    if len(recording.inputs) != 1:
        raise ExportError(f"a NIR graph has one input here, and {type(model).__name__} takes {len(recording.inputs)}")
    reader = Reader(model, recording)
    for event in _events(recording):
        if isinstance(event, Op):
            reader.operation(event)
        else:
            reader.layer(*event)
    reader.graph.outputs = [reader.output(tensor) for tensor in recording.outputs]
    for name, node in reader.graph.nodes.items():
        if node.norm is not None and node.read_raw:
            raise ExportError(f"{name} is read before its norm and behind it, so the norm cannot be folded into it")
    return reader.graph


def _events(recording: Recording) -> Iterator[Op | tuple[str, list[Tensor], list[Tensor]]]:
    """Calls, and ends of layers (path, inputs, outputs), in their order in eval mode."""
    ends: dict[int, list[tuple[str, list[Tensor], list[Tensor]]]] = {}
    for count, path, inputs, outputs in recording.exits:
        ends.setdefault(count, []).append((path, inputs, outputs))
    for number, op in enumerate(recording.ops):
        yield from ends.get(number, ())
        if op.training:
            return
        yield op
    yield from ends.get(len(recording.ops), ())


class Reader:
    """Reads a recording, call by call, into ``graph``."""

    def __init__(self, model: nn.Module, recording: Recording) -> None:
        self.model, self.neurons = model, neurons(model)
        self.names = {id(twin): name for name, twin in recording.parameters.items()}
        """Parameters and buffers, and their transposed views, by the identity of the tensor."""
        self.input = recording.inputs[0]
        self.examples = int(self.input.shape[0])
        self.graph = StepGraph(input_shape=tuple(self.input.shape[1:]))
        self.signals = {id(self.input): Signal((INPUT,), self.graph.input_shape, self.examples)}

    def layer(self, path: str, inputs: list[Tensor], outputs: list[Tensor]) -> None:
        """The end of a layer: a neuron gives spikes first, then membranes."""
        if path not in self.neurons:
            return
        signal = self.entering(inputs[0], path)
        spikes = self.add(path, "neuron", signal, signal.shape)
        for position, output in enumerate(outputs):
            self.signals[id(output)] = spikes if position == 0 else Signal((path,), (), 0, membrane=True)

    def operation(self, op: Op) -> None:
        """One call; what is inside a neuron is the neuron's affair."""
        from reconvene.deploy.runtimes.nir.operators import HANDLERS, TRANSPOSING

        if any(f"{op.owner}.".startswith(f"{path}.") for path in self.neurons):
            return
        inputs = tensors_in((op.args, op.kwargs))
        if op.operator in TRANSPOSING and id(inputs[0]) in self.names and op.outs[0] is not None:
            self.names[id(op.outs[0])] = self.names[id(inputs[0])]
        signals = [self.signals[id(tensor)] for tensor in inputs if id(tensor) in self.signals]
        if not signals:
            return
        handler = HANDLERS.get(op.operator)
        result = None if handler is None else handler(self, op)
        if result is None:
            sources = tuple(dict.fromkeys(source for signal in signals for source in signal.sources))
            raw = frozenset[str]().union(*(signal.raw for signal in signals))
            membrane = any(signal.membrane for signal in signals)
            result = Signal(sources, (), 0, raw, next((s.outside for s in signals if s.outside), op.site), membrane)
        self.signals.update((id(out), result) for out in op.outs if out is not None)

    def entering(self, tensor: Any, name: str) -> Signal:
        """The signal that a node reads. Raises ExportError where a graph cannot carry it."""
        signal = self.signals.get(id(tensor))
        if signal is None:
            raise ExportError(f"{name} reads a tensor that is not made from the network's input")
        if signal.outside:
            raise ExportError(f"NIR has no node for {signal.outside}, and {name} reads its output")
        if signal.membrane:
            raise ExportError(f"{name} reads a membrane: a NIR graph carries spikes and currents alone")
        if len(set(signal.sources)) < len(signal.sources):
            raise ExportError(f"{name} reads a layer twice, which a NIR graph has one edge for")
        return signal

    def add(self, name: str, kind: str, signal: Signal, shape: tuple[int, ...], **options: Any) -> Signal:
        """Note that a node has run; its output. Raises ExportError where it runs otherwise than before."""
        for source in signal.raw:
            self.graph.nodes[source].read_raw = True
        node = Node(kind, signal.sources, signal.shape, shape, options)
        present = self.graph.nodes.setdefault(name, node)
        if (present.kind, present.sources, present.shape, present.options) != (kind, node.sources, shape, options):
            raise ExportError(
                f"{name} reads {', '.join(present.sources)} in one call and {', '.join(node.sources)} in another: a "
                "NIR graph is one time step, in which every layer runs once"
            )
        present.steps += signal.count // self.examples
        raw = frozenset([name]) if kind in ("convolution", "linear") else frozenset[str]()
        return Signal((name,), shape, signal.count, raw)

    def output(self, tensor: Tensor) -> Signal:
        """What an output of the network is made of. Raises ExportError for one that no layer makes."""
        signal = self.signals.get(id(tensor))
        if signal is None or set(signal.sources) <= {INPUT}:
            raise ExportError("an output of the network is made by no layer, so a NIR graph cannot have it")
        for source in signal.raw:
            self.graph.nodes[source].read_raw = True
        return signal
