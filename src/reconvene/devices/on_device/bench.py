"""Layers, timed: one at many widths, in ONNX Runtime's own record. Imports nothing of Reconvene: see ``probe``."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from .layer_spec import LayerJob, LayerSpec, MeasuredLayer, Point, Timing
from .layers import BUILDERS, chain
from .onnx_writer import Graph
from .sample_widths import batches, weight_bytes, width_pairs
from .sessions import RUNS, WARMUPS, kernel_times, open_session

# One graph holds layers until their weights come to about this many bytes.
NEAR_BYTES, FAR_BYTES = 1 << 20, 16 << 20
# Weights beside which the price of memory is measured, at most.
MEMORY_BYTES = 96 << 20
# All layers together tell something where they are as many as this; the same number of runs brings them up to speed.
WHOLE_LAYERS, WHOLE_RUNS = 4, 25
# Channels of small tensors that others are made from.
_SOURCE = 16
# What the device itself is measured on.
_CONVOLUTION = LayerSpec("conv", kernel=(3, 3), stride=(1, 1), pads=(1, 1, 1, 1), dilation=(1, 1))


class LayerBench:
    """Times layers with so many threads."""

    def __init__(self, threads: int, precision: str) -> None:
        self.threads, self.precision = threads, precision
        self.item = 1 if precision == "int8" else 4

    def measure(self, job: LayerJob, steps: Mapping[str, int], network_bytes: int) -> MeasuredLayer:
        """Seconds over the job's grid of widths; ``far`` beside ``network_bytes`` bytes of other weights."""
        spec = job.spec
        points: list[Timing] = []
        for batch in batches(spec, list(width_pairs(job, steps)), NEAR_BYTES):
            points += [(*point, _typical(runs)) for point, runs in zip(batch, self.time(spec, batch))]
        extra_points: list[Timing] = []
        if network_bytes > 2 * NEAR_BYTES and weight_bytes(spec, (job.in_width, job.out_width), self.item) > 0:
            cached_seconds = {(into, out): seconds for into, out, seconds in points}
            corners = [
                (a, b)
                for a in _thirds(cached_seconds, 0)
                for b in _thirds(cached_seconds, 1)
                if (a, b) in cached_seconds
            ]
            for batch in batches(spec, corners, FAR_BYTES):
                batch_bytes = sum(weight_bytes(spec, point, self.item) for point in batch)
                for point, runs in zip(batch, self.time(spec, batch, other_bytes=max(0, network_bytes - batch_bytes))):
                    extra_points.append((*point, round(max(0.0, _typical(runs) - cached_seconds[point]), 9)))
        return MeasuredLayer(spec, job.in_width, job.out_width, tuple(points), tuple(extra_points))

    def whole(self, layers: Sequence[MeasuredLayer], third: int, network_bytes: int) -> dict[str, float]:
        """Layers of a profile in one graph, as they share caches in a network; empty where they are too few.

        Each layer has one width that was measured alone: the narrowest, middle or widest ``third`` of its widths.
        ``seconds`` is the time of all layers together, the median of the runs; ``near`` and ``far`` are the sums of
        the layers' own times and extra times, ``weights`` is the sum of their bytes.
        """
        graph, totals, count = Graph(self.precision), {"near": 0.0, "far": 0.0, "weights": 0.0}, 0
        for number, layer in enumerate(layers):
            extra_seconds = {(into, out): seconds for into, out, seconds in layer.far}
            cached_seconds = {(into, out): seconds for into, out, seconds in layer.points}
            widths = [_thirds(extra_seconds or cached_seconds, axis) for axis in (0, 1)]
            into, out = (axis_widths[min(third, len(axis_widths) - 1)] if axis_widths else 1 for axis_widths in widths)
            point = (into, out)
            size = weight_bytes(layer.spec, point, self.item)
            if point not in cached_seconds or totals["weights"] + size > network_bytes:
                continue
            graph.prefix = f"n{number}."
            feeds = build(graph, layer.spec, [point])
            totals["near"] += cached_seconds[point]
            totals["far"] += extra_seconds.get(point, 0.0)
            totals["weights"] += size
            count += 1
        if count < WHOLE_LAYERS:
            return {}
        session, folder = open_session(graph.to_bytes(), self.threads, profiled=True)
        for _ in range(2 * WHOLE_RUNS):
            session.run(None, feeds)
        nodes = kernel_times(session)
        folder.cleanup()
        layer_durations = [durations for name, durations in nodes.items() if name.startswith("n") and ".p0_" in name]
        summed = np.array(layer_durations, dtype=np.float64)[:, WHOLE_RUNS:].sum(axis=0) * 1e-6
        return {**totals, "seconds": float(np.median(summed))}

    def time(self, spec: LayerSpec, points: Sequence[Point], *, other_bytes: int = 0) -> list[np.ndarray[Any, Any]]:
        """Seconds of every run ``[RUNS]`` at every point, in one graph, ``other_bytes`` bytes of other weights in it.

        The runtime's clock is the wall's. One kernel is far shorter than a turn of the scheduler, so that a busy
        neighbour costs a few of its runs much and the others nothing.
        """
        graph = Graph(self.precision)
        feeds = build(graph, spec, points)
        if other_bytes:
            feeds |= _evict(graph, other_bytes)
        session, folder = open_session(graph.to_bytes(), self.threads, profiled=True)
        for _ in range(WARMUPS + RUNS):
            session.run(None, feeds)
        nodes = kernel_times(session)
        folder.cleanup()
        before = _before(nodes)
        return [_of_point(nodes, number, point) + before for number, point in enumerate(points)]

    def steps(self) -> dict[str, int]:
        """Widths between which time does not change (``in``, ``out``), and the multiple ``in`` must have (``align``).

        Found on one 3x3 convolution: ``out`` and ``in`` are the largest blocks within which time stays within 15 %.
        """
        spec = replace(_CONVOLUTION, spatial=(14, 14), tail=("relu",))
        align = 1
        odd = {n: self._at(spec, (n, 64)) for n in (62, 63, 60, 56, 64)}
        if min(odd[62], odd[63]) > 1.12 * odd[64]:
            align = 4 if odd[60] < 1.12 * odd[64] else 8 if odd[56] < 1.12 * odd[64] else 16
        out = {n: self._at(spec, (64, n)) for n in (1, 3, 5, 8, 9, 16, 17, 24, 25, 32)}
        into = {n: self._at(spec, (n, 64)) for n in range(20, 65, 4)} if align > 1 else {}
        return {"in": max(_block(into), align), "out": _block(out), "align": align}

    def _at(self, spec: LayerSpec, point: Point) -> float:
        return float(min(self.time(spec, [point])[0].min() for _ in range(3)))

    def overhead(self) -> dict[str, float]:
        """Seconds a call and every node cost beside what the kernels' own clock says, which is cut to microseconds.

        From the processor time of chains of 1 and 65 small convolutions, and what the clock says of these; the
        second may be below zero.
        """
        times, kernels = [], 0.0
        for count in (1, 65):
            plain, folder = open_session(chain(count).to_bytes(), self.threads, profiled=False)
            feeds = {"x": np.ones((1, _SOURCE, 8, 8), np.float32)}
            rounds = []
            for _ in range(40):
                begin = time.thread_time()
                for _ in range(10):
                    plain.run(None, feeds)
                rounds.append((time.thread_time() - begin) / 10)
            folder.cleanup()
            times.append(float(np.quantile(rounds, 0.25)))
        session, folder = open_session(chain(65).to_bytes(), self.threads, profiled=True)
        for _ in range(WARMUPS + RUNS):
            session.run(None, feeds)
        node_durations = kernel_times(session)
        folder.cleanup()
        convolution_durations = np.array(
            [durations for name, durations in node_durations.items() if name.startswith("p")]
        )[:, WARMUPS:]
        kernels = float(np.quantile(convolution_durations.sum(axis=0), 0.25)) * 1e-6 / len(convolution_durations)
        node = (times[1] - times[0]) / 64
        return {"call": round(max(times[0] - node, 0.0), 9), "node": round(node - kernels, 9)}

    def memory(self) -> list[list[float]]:
        """What a byte of weights costs more, beside so many bytes of others: ``[bytes, seconds a byte]``, ascending.

        The same layer, so many times in one graph, each with weights of its own.
        """
        spec = replace(_CONVOLUTION, spatial=(2, 2))
        size = weight_bytes(spec, (128, 128), self.item)
        counts = [count for count in (1, 2, 4, 8, 16, 32, 64, 128) if count * size <= MEMORY_BYTES]
        typical_seconds = []
        for count in counts:
            typical_seconds.append(float(np.mean([_typical(runs) for runs in self.time(spec, [(128, 128)] * count)])))
        highest = np.maximum.accumulate(typical_seconds)
        return [[count * size, float(seconds - highest[0]) / size] for count, seconds in zip(counts, highest)]


def _block(times: Mapping[int, float]) -> int:
    """The largest power of two within whose blocks time stays within 15 %."""
    best = 1
    for block in (4, 8, 16, 32):
        cells: dict[int, list[float]] = {}
        for width, seconds in times.items():
            cells.setdefault(-(-width // block), []).append(seconds)
        if times and all(max(cell) <= 1.15 * min(cell) for cell in cells.values()):
            best = block
    return best


def _typical(runs: np.ndarray[Any, Any]) -> float:
    """The mean of the faster half of the runs: what a neighbour slowed is in the other."""
    return round(float(np.sort(runs)[: max(1, len(runs) // 2)].mean()), 9)


def _thirds(points: Iterable[Point], axis: int) -> list[int]:
    """The middle, the narrower and the widest of the even widths along an axis."""
    widths = sorted({point[axis] for point in points if point[0] % 4 == 0})
    return sorted({widths[len(widths) // 3], widths[len(widths) * 2 // 3], widths[-1]}) if widths else []


def _evict(graph: Graph, size: int) -> dict[str, np.ndarray[Any, Any]]:
    """Put a product with ``size`` bytes of weights into the graph; returns what to feed it."""
    columns = max(1, size // (1 if graph.int8 else 4) // 1024)
    name = graph.node("MatMul", [graph.input("evict", [1, 1024]), graph.weight(1024, columns)], "evicted")
    graph.output(graph.edge(name) if graph.int8 else name)
    return {"evict": np.ones((1, 1024), np.float32)}


def _of_point(nodes: Mapping[str, list[int]], number: int, point: Point) -> np.ndarray[Any, Any]:
    """Kernel times of all nodes of a point's layer, summed within each run; warm-ups dropped."""
    layer_durations = [durations for name, durations in nodes.items() if name.startswith(f"p{number}_")]
    if not layer_durations:
        raise RuntimeError(f"the runtime reports no time for a layer at {point}: {sorted(nodes)[:8]}")
    summed: np.ndarray[Any, Any] = np.array(layer_durations, dtype=np.float64)[:, WARMUPS:].sum(axis=0) * 1e-6
    return summed


def _before(nodes: Mapping[str, list[int]]) -> Any:
    """Seconds of every run that went into another layout for the first point's input, which others share."""
    first = next(position for position, name in enumerate(nodes) if name.startswith("p"))
    spent = [durations for name, durations in list(nodes.items())[:first] if name.startswith("ReorderOutput")]
    return np.array(spent, dtype=np.float64)[:, WARMUPS:].sum(axis=0) * 1e-6 if spent else 0.0


def build(graph: Graph, spec: LayerSpec, points: Sequence[Point]) -> dict[str, np.ndarray[Any, Any]]:
    """Put a layer into the graph once a point, nodes named ``p<number>_...``; returns what to feed the graph."""
    BUILDERS[spec.kind](graph, spec, points)
    return {name: np.resize(np.linspace(-1, 1, 997, dtype=np.float32), shape) for name, shape in graph.shapes.items()}
