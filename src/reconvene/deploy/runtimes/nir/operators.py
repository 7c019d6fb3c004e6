"""What ATen calls are in a NIR graph: a node, a signal passed on, or nothing that there is a node for (``None``)."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

from reconvene.deploy.runtimes.nir.graph import INPUT, Reader, Signal
from reconvene.errors import ExportError
from reconvene.structure.recording import Op

BINARY = frozenset({"neuron", "any"})
"""Kinds of nodes that give 0 and 1."""
TRANSPOSING = frozenset({"t", "transpose", "permute", "alias", "detach"})


def _convolution(reader: Reader, op: Op) -> Signal | None:
    x, weight, bias, stride, padding, dilation, transposed, _, groups = op.args
    if id(weight) not in reader.names or transposed or op.outs[0] is None:
        return None
    name = _layer(reader.names[id(weight)])
    signal = reader.entering(x, name)
    shape = tuple(op.outs[0].shape[1:])
    if signal.shape != tuple(x.shape[1:]):
        return None
    parameters = {"weight": reader.names[id(weight)], "bias": reader.names.get(id(bias))}
    steps = {"stride": tuple(stride), "padding": tuple(padding), "dilation": tuple(dilation), "groups": int(groups)}
    return reader.add(name, "convolution", signal, shape, **parameters, **steps)


def _addmm(reader: Reader, op: Op) -> Signal | None:
    bias, x, weight = op.args[:3]
    return None if op.kwargs or id(bias) not in reader.names else _linear(reader, op, x, weight, bias)


def _mm(reader: Reader, op: Op) -> Signal | None:
    x, weight = op.args[:2]
    return _linear(reader, op, x, weight, None)


def _linear(reader: Reader, op: Op, x: Any, weight: Any, bias: Any) -> Signal | None:
    if id(weight) not in reader.names or op.outs[0] is None:
        return None
    name = _layer(reader.names[id(weight)])
    signal = reader.entering(x, name)
    if signal.shape != tuple(x.shape[1:]):
        return None
    parameters = {"weight": reader.names[id(weight)], "bias": reader.names.get(id(bias))}
    return reader.add(name, "linear", signal, tuple(op.outs[0].shape[1:]), **parameters)


def _batch_norm(reader: Reader, op: Op) -> Signal | None:
    x, weight, bias, mean, var = op.args[:5]
    signal = reader.entering(x, op.owner)
    node = reader.graph.nodes.get(signal.sources[0])
    if len(signal.sources) != 1 or node is None or signal.sources[0] not in signal.raw or id(mean) not in reader.names:
        raise ExportError(
            f"{op.owner} does not follow one convolution or linear layer: NIR has no norms, and it cannot be folded"
        )
    parameters = {"weight": weight, "bias": bias, "mean": mean, "var": var}
    norm = {key: reader.names.get(id(tensor)) for key, tensor in parameters.items()} | {"eps": float(op.args[-1])}
    if node.norm not in (None, norm):
        raise ExportError(f"{signal.sources[0]} is followed by two norms, which cannot both be folded into it")
    node.norm = norm
    return Signal(signal.sources, signal.shape, signal.count)


def _average(reader: Reader, op: Op) -> Signal | None:
    x, kernel, stride, padding, ceil_mode, count_padding, divisor = _filled(op, [[], 0, False, True, None])
    if ceil_mode or divisor is not None or (any(_pair(padding)) and not count_padding) or op.outs[0] is None:
        return None
    return _pooled(reader, op, x, "average", _pair(kernel), _pair(stride or kernel), _pair(padding))


def _maximum(reader: Reader, op: Op) -> Signal | None:
    x, kernel, stride, padding, dilation, ceil_mode = _filled(op, [[], 0, 1, False])
    if ceil_mode or set(_pair(dilation)) != {1} or op.outs[0] is None:
        return None
    signal = reader.entering(x, op.site)
    if any(source == INPUT or reader.graph.nodes[source].kind not in BINARY for source in signal.sources):
        raise ExportError(
            f"{op.site} reads no spikes: NIR has no max pooling, which is a sum above zero of spikes only"
        )
    total = _pooled(reader, op, x, "sum", _pair(kernel), _pair(stride or kernel), _pair(padding))
    return reader.add(f"{total.sources[0]}.any", "any", total, total.shape)


def _mean(reader: Reader, op: Op) -> Signal | None:
    """Global average pooling: a mean over all axes but those of examples and channels."""
    x, axes = op.args[0], [axis % op.args[0].ndim for axis in op.args[1] or ()]
    signal = reader.signals[id(x)]
    if signal.outside or len(signal.shape) != 3 or sorted(axes) != [x.ndim - 2, x.ndim - 1] or op.outs[0] is None:
        return None
    size = signal.shape[1:]
    pooled = _pooled(reader, op, x, "average", size, size, (0, 0), shape=(signal.shape[0], 1, 1))
    return pooled if op.outs[0].ndim == x.ndim else _flattened(reader, pooled)


def _pooled(
    reader: Reader,
    op: Op,
    x: Any,
    kind: str,
    kernel: tuple[int, ...],
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    shape: tuple[int, ...] | None = None,
) -> Signal:
    signal = reader.entering(x, op.site)
    assert op.outs[0] is not None, "a pooling has an output"
    shape = tuple(op.outs[0].shape[-3:]) if shape is None else shape
    name = f"{'+'.join(signal.sources)}.{kind}"
    return reader.add(name, kind, signal, shape, kernel_size=kernel, stride=stride, padding=padding)


def _reshape(reader: Reader, op: Op) -> Signal | None:
    """What leaves an example as it is passes on, whatever happens to the axes in front of it; or it is flattened."""
    signal, out = reader.signals[id(op.args[0])], op.outs[0]
    if signal.outside or signal.membrane or out is None:
        return None
    size = len(signal.shape)
    if tuple(out.shape[out.ndim - size :]) == signal.shape and out.ndim > size:
        return Signal(signal.sources, signal.shape, prod(out.shape[: out.ndim - size]), signal.raw)
    if out.shape[-1] == prod(signal.shape) and prod(out.shape[:-1]) == signal.count:
        return _flattened(reader, signal)
    return None


def _flattened(reader: Reader, signal: Signal) -> Signal:
    return reader.add(f"{'+'.join(signal.sources)}.flatten", "flatten", signal, (prod(signal.shape),))


def _sum(reader: Reader, op: Op) -> Signal | None:
    """Two signals of one shape: the node that reads them has an edge from each."""
    parts = [reader.signals.get(id(arg)) for arg in op.args[:2]]
    first, second = parts
    if first is None or second is None or op.kwargs or first.outside or second.outside:
        return None
    if first.membrane or second.membrane or (first.shape, first.count) != (second.shape, second.count):
        return None
    return Signal(first.sources + second.sources, first.shape, first.count, first.raw | second.raw)


def _step_of_input(reader: Reader, op: Op) -> Signal | None:
    """``x[t]`` or ``x[:, t]`` of the network's input is one time step of it."""
    axis = int(op.args[1]) if len(op.args) > 1 else 0
    if op.args[0] is not reader.input or axis not in (0, 1) or reader.graph.time_axis not in (None, axis):
        return None
    sizes = list(reader.input.shape)
    del sizes[axis]
    reader.graph.time_axis, reader.examples, reader.graph.input_shape = axis, sizes[0], tuple(sizes[1:])
    return Signal((INPUT,), tuple(sizes[1:]), sizes[0])


def _layer(parameter: str) -> str:
    return parameter.rpartition(".")[0] or parameter


def _pair(value: Any) -> tuple[int, ...]:
    values = tuple(value) if isinstance(value, (tuple, list)) else (value,)
    return values * 2 if len(values) == 1 else values


def _filled(op: Op, defaults: list[Any]) -> list[Any]:
    """The arguments of a call, those that were left out by their defaults."""
    missing = 2 + len(defaults) - len(op.args)
    return [*op.args, *defaults[len(defaults) - missing :]] if missing else list(op.args)


_PASSING = (
    *("view", "_unsafe_view", "reshape", "unsqueeze", "squeeze", "expand", "repeat", "alias"),
    *("clone", "detach", "_to_copy", "flatten", "lift_fresh_copy"),
)
HANDLERS: dict[str, Callable[[Reader, Op], Signal | None]] = {
    "convolution": _convolution,
    "addmm": _addmm,
    "mm": _mm,
    **dict.fromkeys(("native_batch_norm", "_native_batch_norm_legit_no_training", "cudnn_batch_norm"), _batch_norm),
    "avg_pool2d": _average,
    "max_pool2d_with_indices": _maximum,
    "mean": _mean,
    "add": _sum,
    "select": _step_of_input,
    "unbind": _step_of_input,
    **dict.fromkeys(_PASSING, _reshape),
}
"""By the operator's short name."""
