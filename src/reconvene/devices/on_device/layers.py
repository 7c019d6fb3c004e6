"""Layers of every kind as ONNX graphs, one after another at many widths: what ``probe`` times.

Layers stand where they would in a network: behind a convolution that leaves its result in the runtime's own layout,
before a pooling that reads it so. This file imports nothing of Reconvene, so that it can be copied to a device.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from .layer_spec import LayerSpec, Point
from .onnx_writer import FLOAT, INT64, Graph

Points = Sequence[Point]
_SOURCE = 16
"""Channels of the small tensors that the layers' inputs are made from."""


def _convolution(graph: Graph, spec: LayerSpec, points: Points) -> None:
    """Convolutions, transposed ones, and depthwise ones, with what the runtime fuses behind them."""
    transposed, depthwise = spec.kind == "conv_transpose", spec.kind == "depthwise"
    spatial, batch = list(spec.spatial), spec.batch
    fed = graph.input("x", [batch, points[0][0] if spec.is_first else _SOURCE, *spatial])
    sources: dict[int, str] = {}
    summand = _summand(graph, spec, batch, spatial)
    for number, (into, out) in enumerate(points):
        groups = into if depthwise else spec.groups
        if not depthwise:  # widths of grouped convolutions are those of one group
            into, out = into * groups, out * groups
        if into not in sources:
            sources[into] = fed if spec.is_first else _dense(graph, fed, _SOURCE, into, f"source{into}", len(spatial))
        shape = (into, out // groups) if transposed else (out, into // groups)
        name = graph.node(
            "ConvTranspose" if transposed else "Conv",
            [sources[into], graph.weight(*shape, *spec.kernel), graph.bias(out)],
            f"p{number}_conv",
            kernel_shape=spec.kernel,
            strides=spec.stride,
            pads=spec.pads,
            dilations=spec.dilation,
            group=groups,
        )
        name = tail(graph, name, spec.tail, f"p{number}", partial(summand, out))
        _sink(graph, name, f"sink{number}")


def _linear(graph: Graph, spec: LayerSpec, points: Points) -> None:
    """Matrix products with a weight, for so many rows."""
    fed = graph.input("x", [spec.batch, points[0][0]])
    for number, (into, out) in enumerate(points):
        inputs = [fed, graph.weight(into, out), graph.bias(out)]
        name = graph.node("Gemm", inputs, f"p{number}_gemm")
        name = tail(graph, name, spec.tail, f"p{number}", None)
        graph.output(graph.edge(name) if graph.int8 else name)


def matmul(graph: Graph, spec: LayerSpec, points: Points) -> None:
    """Products of two activations ``[batch, m, k] x [batch, k, n]``; ``k`` varies, or ``n`` where that is fixed."""
    batch, rows, inner, columns = spec.spatial
    for number, (width, _) in enumerate(points):
        k, n = (width, columns) if spec.vary == "k" else (inner, width)
        left = graph.input(f"a{number}", [batch, rows, k])
        right = graph.input(f"b{number}", [batch, k, n])
        graph.output(graph.edge(graph.node("MatMul", [left, right], f"p{number}_matmul")))


def single(graph: Graph, spec: LayerSpec, points: Points) -> None:
    """Operators without weights to speak of, at so many channels."""
    for number, (width, _) in enumerate(points):
        fed = "" if spec.operator in _BEHIND_CONVOLUTIONS else graph.input(f"x{number}", _shape(spec, width))
        name = _OPERATORS[spec.operator](graph, fed, spec, width, f"p{number}")
        graph.output(graph.edge(name) if graph.int8 else name)


def chain(count: int) -> Graph:
    """So many small convolutions, one after another."""
    graph = Graph()
    name = graph.input("x", [1, _SOURCE, 8, 8])
    for number in range(count):
        inputs = [name, graph.weight(_SOURCE, _SOURCE, 3, 3), graph.bias(_SOURCE)]
        name = graph.node("Conv", inputs, f"p{number}_conv", kernel_shape=[3, 3], pads=[1, 1, 1, 1])
    graph.output(name)
    return graph


BUILDERS: dict[str, Callable[[Graph, LayerSpec, Points], None]] = {
    "conv": _convolution,
    "depthwise": _convolution,
    "conv_transpose": _convolution,
    "linear": _linear,
    "matmul": matmul,
    "op": single,
}


def tail(graph: Graph, name: str, steps: Sequence[str], prefix: str, summand: Callable[[], str] | None) -> str:
    """Operators directly behind a layer."""
    for step in steps:
        if step == "add" and summand is not None:
            name = graph.node("Add", [graph.edge(name), summand()], f"{prefix}_add")
        elif step in _ACTIVATIONS:
            name = _ACTIVATIONS[step](graph, name, prefix)
    return name


def _relu(graph: Graph, name: str, prefix: str) -> str:
    return graph.node("Relu", [name], f"{prefix}_relu")


def _clip(graph: Graph, name: str, prefix: str) -> str:
    bounds = [graph.constant(0.0, FLOAT), graph.constant(6.0, FLOAT)]
    return graph.node("Clip", [name, *bounds], f"{prefix}_clip")


def _sigmoid(graph: Graph, name: str, prefix: str) -> str:
    return graph.node("Sigmoid", [name], f"{prefix}_sigmoid")


def _hardsigmoid(graph: Graph, name: str, prefix: str) -> str:
    return graph.node("HardSigmoid", [name], f"{prefix}_hardsigmoid", alpha=1 / 6, beta=0.5)


def _silu(graph: Graph, name: str, prefix: str) -> str:
    name = graph.edge(name)
    return graph.node("Mul", [name, graph.edge(_sigmoid(graph, name, prefix))], f"{prefix}_mul")


def _hardswish(graph: Graph, name: str, prefix: str) -> str:
    # The runtime takes HardSwish apart just so, under names of its own.
    name = graph.edge(name)
    return graph.node("Mul", [name, graph.edge(_hardsigmoid(graph, name, prefix))], f"{prefix}_mul")


def _gelu(graph: Graph, name: str, prefix: str) -> str:
    return graph.node("Gelu", [name], f"{prefix}_gelu")


_ACTIVATIONS: dict[str, Callable[[Graph, str, str], str]] = {
    "relu": _relu,
    "clip": _clip,
    "sigmoid": _sigmoid,
    "hardsigmoid": _hardsigmoid,
    "silu": _silu,
    "hardswish": _hardswish,
    "gelu": _gelu,
}


def _source(graph: Graph, spec: LayerSpec, width: int, prefix: str) -> str:
    """So many channels as a convolution leaves them."""
    fed = graph.input(f"{prefix}f", [spec.batch, _SOURCE, *spec.spatial])
    return _dense(graph, fed, _SOURCE, width, f"source{prefix}", len(spec.spatial))


def _dense(graph: Graph, fed: str, into: int, out: int, name: str, rank: int) -> str:
    ones = [1] * rank
    output = graph.node("Conv", [fed, graph.weight(out, into, *ones), graph.bias(out)], name, kernel_shape=ones)
    return graph.edge(output)


def _summand(graph: Graph, spec: LayerSpec, batch: int, spatial: Sequence[int]) -> Callable[[int], str]:
    """The tensor that is added to a layer's result: built once a width, in the layout that convolutions leave."""
    if "add" not in spec.tail:
        return lambda out: ""
    fed = graph.input("z", [batch, _SOURCE, *spec.spatial_out])
    summands: dict[int, str] = {}

    def summand(out: int) -> str:
        if out not in summands:
            summands[out] = _dense(graph, fed, _SOURCE, out, f"beside{out}", len(spatial))
        return summands[out]

    return summand


def _sink(graph: Graph, name: str, sink: str) -> None:
    graph.output(graph.node("GlobalAveragePool", [graph.edge(name)], sink))


def _shape(spec: LayerSpec, width: int) -> list[int]:
    return [spec.batch, width, *spec.spatial] if spec.axis == 1 else [spec.batch, *spec.spatial, width]


def _unary(build: Callable[[Graph, str, str], str]) -> Callable[[Graph, str, LayerSpec, int, str], str]:
    return lambda graph, fed, spec, width, prefix: build(graph, fed, prefix)


def _binary(op: str) -> Callable[[Graph, str, LayerSpec, int, str], str]:
    def build(graph: Graph, fed: str, spec: LayerSpec, width: int, prefix: str) -> str:
        second_input = graph.input(f"{prefix}y", _shape(spec, width))
        return graph.node(op, [fed, second_input], f"{prefix}_{op.lower()}")

    return build


def _pool(op: str) -> Callable[[Graph, str, LayerSpec, int, str], str]:
    def build(graph: Graph, fed: str, spec: LayerSpec, width: int, prefix: str) -> str:
        source = _source(graph, spec, width, prefix)
        if op.startswith("Global"):
            return graph.node(op, [source], f"{prefix}_pool")
        return graph.node(op, [source], f"{prefix}_pool", kernel_shape=spec.kernel, strides=spec.stride, pads=spec.pads)

    return build


def _scale(graph: Graph, fed: str, spec: LayerSpec, width: int, prefix: str) -> str:
    """One factor a channel, as squeeze and excitation has it."""
    factor = graph.input(f"{prefix}s", [spec.batch, width, *[1] * len(spec.spatial)])
    source = _source(graph, spec, width, prefix)
    return graph.node("Mul", [source, factor], f"{prefix}_scale")


def _softmax(graph: Graph, fed: str, spec: LayerSpec, width: int, prefix: str) -> str:
    return graph.node("Softmax", [fed], f"{prefix}_softmax", axis=-1)


def _layer_norm(graph: Graph, fed: str, spec: LayerSpec, width: int, prefix: str) -> str:
    inputs = [fed, graph.weight(width), graph.bias(width)]
    return graph.node("LayerNormalization", inputs, f"{prefix}_norm", axis=-1, epsilon=1e-5)


def _batch_norm(graph: Graph, fed: str, spec: LayerSpec, width: int, prefix: str) -> str:
    ones = [graph.constant([1.0] * width, FLOAT) for _ in range(4)]
    if spec.axis == 1 or not spec.spatial:
        return graph.node("BatchNormalization", [fed, *ones], f"{prefix}_norm")
    # Of tokens, whose channels are last: as rows, since ONNX has them second.
    rows = graph.edge(graph.node("Reshape", [fed, graph.constant([-1, width], INT64)], f"{prefix}_rows"))
    norm = graph.edge(graph.node("BatchNormalization", [rows, *ones], f"{prefix}_norm"))
    return graph.node("Reshape", [norm, graph.constant(_shape(spec, width), INT64)], f"{prefix}_tokens")


def _copy(graph: Graph, fed: str, spec: LayerSpec, width: int, prefix: str) -> str:
    order = [0, 2, 1, *range(3, 2 + len(spec.spatial))] if spec.spatial else [0, 1]
    return graph.node("Transpose", [fed], f"{prefix}_copy", perm=order)


def _concat(graph: Graph, fed: str, spec: LayerSpec, width: int, prefix: str) -> str:
    second_input = graph.input(f"{prefix}y", _shape(spec, width))
    return graph.node("Concat", [fed, second_input], f"{prefix}_concat", axis=1)


def _resize(graph: Graph, fed: str, spec: LayerSpec, width: int, prefix: str) -> str:
    sizes = graph.constant([spec.batch, width, *(2 * size for size in spec.spatial)], INT64)
    return graph.node("Resize", [fed, "", "", sizes], f"{prefix}_resize", mode="nearest")


_OPERATORS: dict[str, Callable[[Graph, str, LayerSpec, int, str], str]] = {
    **{name: _unary(build) for name, build in _ACTIVATIONS.items()},
    "add": _binary("Add"),
    "mul": _binary("Mul"),
    "max_pool": _pool("MaxPool"),
    "average_pool": _pool("AveragePool"),
    "global_pool": _pool("GlobalAveragePool"),
    "scale": _scale,
    "softmax": _softmax,
    "layer_norm": _layer_norm,
    "batch_norm": _batch_norm,
    "copy": _copy,
    "concat": _concat,
    "resize": _resize,
}
_BEHIND_CONVOLUTIONS = frozenset({"max_pool", "average_pool", "global_pool", "scale"})
"""Where layout matters: measured on what a convolution leaves."""
