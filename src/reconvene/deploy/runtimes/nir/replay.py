"""A NIR graph computed by numpy, time step by time step, to check what a file says."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from reconvene.errors import ModelError

Array = NDArray[np.float32]
_NEURONS = frozenset({"LIF", "IF", "CubaLIF"})


class Replay:
    """The nodes of a graph that was read by ``nir``, with membranes that begin at rest.

    ``values`` holds the output of every node after a step, ``membranes`` and ``currents`` those of neurons. What reads
    the spikes of a neuron on their way back into it reads those of the step before.
    """

    def __init__(self, graph: Any) -> None:
        self.nodes = graph.nodes
        sources = {name: [a for a, b in graph.edges if b == name] for name in graph.nodes}
        self.delayed = {
            name: [a for a in before if type(self.nodes[a]).__name__ in _NEURONS and name in _behind(sources, a)]
            for name, before in sources.items()
        }
        self.sources = {name: [a for a in before if a not in self.delayed[name]] for name, before in sources.items()}
        self.order = _order(self.sources)
        self.values: dict[str, Array] = {}
        self.membranes: dict[str, Array] = {}
        self.currents: dict[str, Array] = {}

    def step(self, x: Array) -> None:
        """One time step of inputs ``[N, ...]``."""
        fired = {name: self._fired(name, len(x)) for before in self.delayed.values() for name in before}
        for name in self.order:
            if type(self.nodes[name]).__name__ == "Input":
                self.values[name] = x
                continue
            now = [self.values[source] for source in self.sources[name]]
            first, *others = now + [fired[source] for source in self.delayed[name]]
            self.values[name] = self._compute(name, self.nodes[name], sum(others, start=first))

    def _fired(self, neuron: str, examples: int) -> Array:
        """The spikes of a neuron in the step before; none before the first."""
        silent = np.zeros((examples, *self.nodes[neuron].v_threshold.shape), np.float32)
        return self.values.get(neuron, silent)

    def _compute(self, name: str, node: Any, x: Array) -> Any:
        match type(node).__name__:
            case "Output":
                return x
            case "Flatten":
                return x.reshape(len(x), -1)
            case "Linear":
                return x @ node.weight.T
            case "Affine":
                return x @ node.weight.T + node.bias
            case "Conv1d" | "Conv2d":
                return _convolution(node, x)
            case "AvgPool2d":
                return _windows(x, node.kernel_size, node.stride, node.padding).mean(axis=(-2, -1), dtype=np.float32)
            case "SumPool2d":
                return _windows(x, node.kernel_size, node.stride, node.padding).sum(axis=(-2, -1), dtype=np.float32)
            case "Threshold":
                return (x > node.threshold).astype(np.float32)
            case "Scale":
                return x * node.scale
            case "LIF" | "IF" | "CubaLIF":
                return self._fire(name, node, x)
        raise ModelError(f"the NIR file holds a {type(node).__name__} ({name}), which is not computed here")

    def _fire(self, name: str, node: Any, drive: Array) -> Array:
        """Spikes of a neuron; resets are NIR's own, to ``v_reset``, unless the file says otherwise."""
        dt = float(node.metadata.get("dt", 1.0))
        if hasattr(node, "tau_syn"):
            decay, gain = _rates(node.tau_syn, node.w_in, dt)
            self.currents[name] = drive = decay * self.currents.get(name, np.float32(0)) + gain * drive
        decay, gain = _rates(getattr(node, "tau_mem", getattr(node, "tau", None)), node.r, dt)
        leak = ((1 - decay) * getattr(node, "v_leak", 0.0)).astype(np.float32)
        before = self.membranes.get(name, np.broadcast_to(getattr(node, "v_leak", np.float32(0)), drive.shape))
        membrane = (decay * before + (gain * drive + leak if leak.any() else gain * drive)).astype(np.float32)
        subtract = _text(node.metadata.get("reset", "value")) == "subtract"
        delayed = subtract and bool(node.metadata.get("reset_delayed", 0))
        if delayed:
            membrane = membrane - (before > node.v_threshold).astype(np.float32) * node.v_threshold
        spikes: Array = (membrane > node.v_threshold).astype(np.float32)
        if subtract and not delayed:
            membrane = membrane - spikes * node.v_threshold
        elif not subtract:
            membrane = np.where(spikes > 0, node.v_reset, membrane).astype(np.float32)
        self.membranes[name] = membrane
        return spikes


def _rates(tau: Any, resistance: Any, dt: float) -> tuple[Array, Array]:
    """Share of a membrane or current that stays in a step, and what its input is multiplied by."""
    step = np.ones_like(resistance) * dt if tau is None else dt / tau
    decay = np.ones_like(resistance) if tau is None else 1 - step
    return decay.astype(np.float32), (resistance * step).astype(np.float32)


def _behind(sources: dict[str, list[str]], name: str) -> set[str]:
    """All nodes whose outputs reach a node."""
    reached, left = set[str](), [name]
    while left:
        fresh = [source for source in sources[left.pop()] if source not in reached]
        reached.update(fresh)
        left += fresh
    return reached


def _order(sources: dict[str, list[str]]) -> list[str]:
    """Nodes behind their sources. Raises ModelError for a circle."""
    order: list[str] = []
    while len(order) < len(sources):
        ready = [name for name in sources if name not in order and set(sources[name]) <= set(order)]
        if not ready:
            raise ModelError("the NIR graph has a circle of edges, which is not computed here")
        order += ready
    return order


def _convolution(node: Any, x: Array) -> Array:
    size = node.weight.ndim - 2
    stride, padding, dilation = (np.broadcast_to(v, size) for v in (node.stride, node.padding, node.dilation))
    reach = dilation * (np.array(node.weight.shape[2:]) - 1) + 1
    taps: Any = (..., *(slice(None, None, int(step)) for step in dilation))
    windows = _windows(x, reach, stride, padding)[taps]
    axes = [1, *range(2 + size, 2 + 2 * size)]
    out = np.tensordot(windows, node.weight, axes=(axes, [1, *range(2, 2 + size)]))
    moved: Array = np.moveaxis(out, -1, 1) + node.bias.reshape(-1, *[1] * size)
    return moved


def _windows(x: Array, kernel: Any, stride: Any, padding: Any) -> Array:
    """Every window that a kernel sees: ``[N, C, *places, *kernel]``."""
    size = len(kernel)
    padded = np.pad(x, [(0, 0), (0, 0), *((int(p), int(p)) for p in padding)])
    windows = sliding_window_view(padded, tuple(int(k) for k in kernel), axis=tuple(range(2, 2 + size)))
    strided: Array = windows[(slice(None), slice(None), *(slice(None, None, int(step)) for step in stride))]
    return strided


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
