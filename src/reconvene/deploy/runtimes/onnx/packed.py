"""Weights of few bits in an ONNX file: packed into bytes, unpacked by the graph itself, computed in int8.

ONNX Runtime folds the unpacking when it loads the file, so the layers run in its int8 kernels, and take the memory and
the time of int8; what is smaller is the file. Output channels of the same bits form a block: ``8 / bits`` integers a
byte, the first in the lowest bits, each stored as ``q + 2^(bits - 1)``. Blocks stand one after the other, those of
fewer bits first, and a permutation of the *weight* puts its channels where the network has them. docs/bits.md reads
such a file with numpy alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reconvene.deploy.packed_rows import folded_integers, rows_of
from reconvene.deploy.planned import NarrowInput, PackedWeight
from reconvene.deploy.runtimes.base import imported
from reconvene.deploy.runtimes.onnx.compact import compact
from reconvene.deploy.runtimes.onnx.narrow_inputs import narrow_inputs
from reconvene.deploy.runtimes.onnx.unpacking import (
    DOMAIN,
    VERSION,
    WIDTHS,
    bias_scale,
    packed_bytes,
    rounding,
    weight_functions,
)
from reconvene.errors import ExportError
from reconvene.surgery.bits import LayerBits
from reconvene.utils.machine import saturates

_Array = NDArray[Any]


def pack_weights(proto: Any, weights: Mapping[str, PackedWeight], plain: Any, inputs: Mapping[str, NarrowInput]) -> Any:
    """Put packed weights into a QDQ model, in place, where it has int8 ones, and let layers read few bits.

    Returns the same model with activations and biases in float32: what it computes is what the weights say, so that
    they can be compared with those of the network.

    Args:
        proto: the model as ONNX Runtime's tool quantised it.
        weights: by the name of the weight in the network.
        plain: the model in float32 that the tool was given, norms folded into its weights.
        inputs: what layers read in fewer than 8 bits by the name of the layer.

    Raises ExportError for a weight that the file does not have in int8.
    """
    narrow_inputs(proto, inputs)
    graph = _Graph(proto, plain)
    read = {name: np.zeros(len(packed.layer.bits), dtype=np.bool_) for name, packed in weights.items()}
    for node, name, rows in graph.layers(weights):
        graph.replace(node, weights[name].rows(rows), name)
        read[name][rows] = True
    if missing := [name for name, rows in read.items() if not rows.all()]:
        raise ExportError(
            f"{', '.join(missing[:3])} cannot be packed: no layer of the quantised graph reads it. Export it "
            "with quantize='int8'"
        )
    graph.clean()
    exact = graph.with_float_activations()
    graph.round_in_one()
    compact(proto)
    return exact


class _Graph:
    """A QDQ model that is rewritten: producers, initializers, and the functions that unpack."""

    def __init__(self, proto: Any, plain: Any) -> None:
        self.onnx = imported("onnx", "onnx", "packed ONNX")
        self.proto, self.graph = proto, proto.graph
        self.made_by = {output: node for node in self.graph.node for output in node.output}
        self.initializers = {tensor.name: tensor for tensor in self.graph.initializer}
        self._floats = {tensor.name: tensor for tensor in plain.graph.initializer}
        self._float_names = self._names_in(plain.graph)
        self._dropped = self._dropped_from(plain.graph)
        self._packed: dict[tuple[Any, ...], str] = {}
        self._calls: list[Any] = []
        self._functions: dict[str, Any] = {}
        self._biases: dict[str, _Array] = {}
        self._count = 0

    def _names_in(self, plain: Any) -> dict[str, str]:
        """The float32 tensor behind each integer one, by the nodes that read both: copies of a tensor have other names.

        A bias that two layers read is quantised twice, at the scale of what each of them reads.
        """
        nodes, names = {node.name: node for node in plain.node}, dict[str, str]()
        for node in self.graph.node:
            inputs = nodes[node.name].input if node.name in nodes else []
            for read, name in zip(node.input, inputs, strict=False):
                source = self.made_by.get(read)
                if source is not None and source.op_type == "DequantizeLinear" and name in self._floats:
                    names[source.input[0]] = name
        return names

    def _dropped_from(self, plain: Any) -> dict[str, Any]:
        """Each ReLU that the tool dropped since uint8 holds no negative values anyway, by what is rounded in its place.

        What it read has its name then, or where that is the name of an output of the model, a name of the tool.
        """
        names = {node.name for node in self.graph.node}
        dropped = {
            node.output[0]: node for node in plain.node if node.op_type in ("Relu", "Clip") and node.name not in names
        }
        for output in self.graph.output:
            rounded = self.made_by.get(output.name)
            source = None if rounded is None else self.made_by.get(rounded.input[0])
            if output.name in dropped and source is not None and source.op_type == "QuantizeLinear":
                dropped[source.input[0]] = dropped[output.name]
        return dropped

    def layers(self, weights: Mapping[str, PackedWeight]) -> Iterator[tuple[Any, str, slice]]:
        """Every node that reads an int8 weight, the name of that weight in the network, and which rows it reads.

        ``nn.MultiheadAttention`` keeps the weights of three projections in one, which the file can have whole or in
        parts; those are known by their values.
        """
        names = PackedWeight.by_every_name(weights)
        for node in list(self.graph.node):
            if node.op_type not in ("Conv", "ConvTranspose", "Gemm", "MatMul") or len(node.input) < 2:
                continue
            owner, weight = node.name.split("/")[0], self.made_by.get(node.input[1])
            if weight is None or weight.op_type != "DequantizeLinear":
                continue
            if weight.input[0] not in self._float_names:
                continue  # a product of two activations
            if f"{owner}.weight" in names:
                yield node, names[f"{owner}.weight"], slice(None)
                continue
            axis = next((a.i for a in weight.attribute if a.name == "axis"), 0)
            rows = np.moveaxis(self._float(weight.input[0]), axis, 0)
            for own, name in names.items():
                if own.rpartition(".")[0] == owner and (part := rows_of(weights[name], rows)) is not None:
                    yield node, name, part
                    break

    def replace(self, node: Any, packed: PackedWeight, name: str) -> None:
        """Let one layer read the packed weight, with its own scales, and a bias at the scale that follows."""
        dequantize = self.made_by[node.input[1]]
        axis = next((a.i for a in dequantize.attribute if a.name == "axis"), 0)
        folded = self._float(dequantize.input[0])
        integers, scale = folded_integers(packed, folded, axis, name)
        activation = self.made_by.get(node.input[0])
        if activation is None or activation.op_type != "DequantizeLinear":
            raise ExportError(f"{name} cannot be packed: what its layer reads is not quantised")
        step = float(self._value(activation.input[1]))
        bias = self._bias(node)
        if bias is not None:  # a channel of zeros has no scale of its own: one that its bias fits
            idle = ~integers.any(axis=tuple(d for d in range(integers.ndim) if d != axis))
            scale[idle] = np.maximum(1e-8, np.abs(bias[idle]) / step / 2**30)
        unsigned = saturates() and max(packed.layer.channels) == 8
        dtype = "uint8" if unsigned else "int8"
        single = scale.astype(np.float32)
        # Calls of one layer read one weight, unless norms behind them turned other signs or have other scales.
        key = (name, axis, integers.tobytes(), single.tobytes())
        if key not in self._packed:
            self._packed[key] = self._weight(integers, packed.layer, axis, single, dtype)
        node.input[1] = self._packed[key]
        if bias is not None:
            self._set_bias(node, bias, activation.input[1], single, name)

    def clean(self) -> None:
        """Remove what nobody reads any more; what unpacks comes first."""
        nodes = [*self._calls, *self.graph.node]
        read = {output.name for output in self.graph.output}
        initializers = []
        for node in reversed(nodes):
            if read & set(node.output):
                initializers.append(node)
                read.update(node.input)
        tensors = [tensor for tensor in self.graph.initializer if tensor.name in read]
        for entries, values in ((self.graph.node, initializers[::-1]), (self.graph.initializer, tensors)):
            copies = [type(value).FromString(value.SerializeToString()) for value in values]
            del entries[:]
            entries.extend(copies)
        del self.graph.value_info[:]
        self.proto.functions.extend(self._functions[name] for name in sorted(self._functions))
        self.proto.opset_import.append(self.onnx.helper.make_opsetid(DOMAIN, VERSION))

    def round_in_one(self) -> None:
        """Write each pair of nodes that round activations as one, a function that the file holds once."""
        readers = Counter(name for node in self.graph.node for name in node.input)
        rounded = {node.output[0]: node for node in self.graph.node if node.op_type == "QuantizeLinear"}
        pairs = {
            node.input[0]: node
            for node in self.graph.node
            if node.op_type == "DequantizeLinear" and node.input[0] in rounded and readers[node.input[0]] == 1
        }
        for name, dequantize in pairs.items():
            node = rounded[name]
            dequantize.op_type, dequantize.domain, dequantize.input[0] = "Round", DOMAIN, node.input[0]
            self.graph.node.remove(node)
        if pairs:
            self.proto.functions.append(rounding(self.onnx.helper))

    def with_float_activations(self) -> Any:
        """A copy that rounds weights only."""
        copy = self.onnx.ModelProto.FromString(self.proto.SerializeToString())
        sources = {node.output[0]: node.input[0] for node in copy.graph.node if node.op_type == "QuantizeLinear"}
        ends = {
            n.output[0]: sources[n.input[0]] for n in copy.graph.node if n.op_type == "Clip" and n.input[0] in sources
        }
        sources |= ends  # of integers of few bits
        nodes, used = [], {tensor.name for tensor in copy.graph.initializer}
        used.update(output for node in copy.graph.node for output in node.output)
        for node in copy.graph.node:
            if node.op_type == "QuantizeLinear" or (node.op_type == "Clip" and node.output[0] in ends):
                continue
            if node.op_type == "DequantizeLinear" and node.input[0] in sources:
                node = self._in_float(sources[node.input[0]], node.output[0])
            elif node.op_type == "DequantizeLinear" and node.input[0] in self._float_names:
                # A bias that is an addition by itself: the tool rounds it as it rounds activations.
                name, output = f"{node.output[0]}/float", node.output[0]
                copy.graph.initializer.append(self.onnx.numpy_helper.from_array(self._float(node.input[0]), name))
                node = self.onnx.helper.make_node("Identity", [name], [output])
            elif node.op_type == "Bias" and node.domain == DOMAIN:
                name, output = f"{node.output[0]}/float", node.output[0]
                copy.graph.initializer.append(self.onnx.numpy_helper.from_array(self._biases[output], name))
                node = self.onnx.helper.make_node("Identity", [name], [output])
            missing = [name for name in node.input if name in self._floats and name not in used]
            copy.graph.initializer.extend(self._floats[name] for name in missing)
            used.update(missing)
            nodes.append(type(node).FromString(node.SerializeToString()))
        del copy.graph.node[:]
        copy.graph.node.extend(nodes)
        return copy

    def _in_float(self, source: str, output: str) -> Any:
        """What stands in place of a rounding of activations: a ReLU that the tool dropped before it, or nothing."""
        if source not in self._dropped:
            return self.onnx.helper.make_node("Identity", [source], [output])
        node = self.onnx.NodeProto.FromString(self._dropped[source].SerializeToString())
        node.input[0], node.output[0] = source, output
        return node

    def _weight(self, integers: _Array, layer: LayerBits, axis: int, scale: _Array, dtype: str) -> str:
        """Name of the tensor of the weight, dequantised."""
        rows, bits = np.moveaxis(integers, axis, 0), layer.bits
        blocks = [rows[bits == width] for width in WIDTHS]
        parts = [packed_bytes(block, width) for block, width in zip(blocks, WIDTHS, strict=True)]
        places = np.argsort(np.argsort(bits, kind="stable"))
        attributes: dict[str, Any] = {"blocks": [each.size for each in (*parts, *blocks)], "shape": list(rows.shape)}
        if axis:
            attributes |= {"perm": [*range(1, axis + 1), 0, *range(axis + 1, rows.ndim)], "axis": axis}
        order = places.astype(np.min_scalar_type(len(places)))
        inputs = [self._add(np.concatenate(parts)), self._add(order), self._add(scale)]
        functions = weight_functions(self.onnx.helper, dtype, transposed=axis > 0)
        return self._call(functions, inputs, **attributes)

    def _call(self, functions: list[Any], inputs: list[str], **attributes: Any) -> str:
        """A call of the last of these functions, which the file holds once each."""
        self._functions.update({function.name: function for function in functions})
        called, name = functions[-1].name, self._name()
        self._calls.append(self.onnx.helper.make_node(called, inputs, [name], domain=DOMAIN, **attributes))
        return name

    def _bias(self, node: Any) -> _Array | None:
        """The float32 bias of a layer, where it is quantised."""
        if len(node.input) < 3 or not node.input[2]:
            return None
        dequantize = self.made_by.get(node.input[2])
        if dequantize is None or dequantize.op_type != "DequantizeLinear":
            return None
        bias: _Array = self._float(dequantize.input[0]).astype(np.float64)
        return bias

    def _set_bias(self, node: Any, bias: _Array, step: str, scale: _Array, name: str) -> None:
        together = self._value(step).astype(np.float32) * scale
        integers = np.rint(bias / together)
        largest = np.abs(integers).max(initial=0)
        dtype = next((dtype for dtype in (np.int8, np.int16, np.int32) if largest <= np.iinfo(dtype).max), None)
        if dtype is None:
            raise ExportError(f"the bias of {name.removesuffix('.weight')} does not fit into 32 bits at its scale")
        scales = next(call.input[-1] for call in self._calls if node.input[1] in call.output)
        inputs = [self._add(integers.astype(dtype)), step, scales]
        node.input[2] = self._call([bias_scale(self.onnx.helper)], inputs)
        self._biases[node.input[2]] = bias.astype(np.float32)

    def _float(self, quantised: str) -> _Array:
        """The float32 tensor that the tool quantised."""
        array: _Array = self.onnx.numpy_helper.to_array(self._floats[self._float_names[quantised]])
        return array

    def _value(self, name: str) -> _Array:
        array: _Array = self.onnx.numpy_helper.to_array(self.initializers[name])
        return array

    def _add(self, array: _Array) -> str:
        name = self._name()
        self.graph.initializer.append(self.onnx.numpy_helper.from_array(array, name))
        return name

    def _name(self) -> str:
        self._count += 1
        return f"packed/{self._count}"
