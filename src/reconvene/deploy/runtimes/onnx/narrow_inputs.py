"""What layers read in fewer than 8 bits: the same int8 kernels, on integers that end earlier.

ONNX Runtime computes with activations of 8 bits. A layer that reads ``b`` bits gets integers from 0 to ``2^b - 1`` in
bytes, in the range that the layer reads where all layers read their bits, and a ``Clip`` of integers for what lies
beyond it. The layer reads them as multiples that fill a byte (0, 85, 170, 255 for 2 bits): its bias has the scale of
what it reads times that of its weights, and would be rounded by up to half of one coarse product otherwise. So the file
computes what the network with rounded activations does, and takes no less memory or time than one of 8 bits.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import numpy as np

from reconvene.deploy.planned import NarrowInput
from reconvene.deploy.runtimes.base import imported
from reconvene.errors import ExportError

_BYTE = 255
_LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")


def narrow_inputs(proto: Any, inputs: Mapping[str, NarrowInput]) -> None:
    """Let layers of a QDQ model read fewer bits, in place; ``inputs`` by the name of the layer.

    Raises ExportError for a layer whose input the file does not have in integers.
    """
    if inputs:
        _Narrowing(proto, inputs).run()


class _Narrowing:
    def __init__(self, proto: Any, inputs: Mapping[str, NarrowInput]) -> None:
        self._onnx = imported("onnx", "onnx", "packed ONNX")
        self._graph, self._inputs = proto.graph, inputs
        self._made_by = {output: node for node in self._graph.node for output in node.output}
        self._values = {tensor.name: self._onnx.numpy_helper.to_array(tensor) for tensor in self._graph.initializer}
        self._readers: dict[str, list[Any]] = defaultdict(list)
        for node in self._graph.node:
            for name in node.input:
                self._readers[name].append(node)
        self._narrow: dict[tuple[str, NarrowInput], str] = {}

    def run(self) -> None:
        """Put the nodes in, each before the first layer that reads it."""
        nodes, found = [], set()
        for node in list(self._graph.node):
            layer = self._layer(node)
            if layer in self._inputs:
                node.input[0], added = self._rounded(node, layer, self._inputs[layer])
                nodes += added
                found.add(layer)
            nodes.append(node)
        if missing := [layer for layer in self._inputs if layer not in found]:
            raise ExportError(
                f"{', '.join(missing[:3])} cannot read few bits: the quantised graph has no such layer in integers. "
                "Leave it out of keep_fp32, or plan with activation_bits=(8,)"
            )
        copies = [type(node).FromString(node.SerializeToString()) for node in nodes]
        del self._graph.node[:]
        self._graph.node.extend(copies)

    def _layer(self, node: Any) -> str:
        """Name of the layer that a node computes; empty for nodes that compute none."""
        weighted = node.op_type in _LAYERS and len(node.input) > 1
        dequantize = self._made_by.get(node.input[1]) if weighted else None
        from_constant = dequantize is not None and dequantize.input[0] in self._values
        return str(node.name.split("/")[0]) if from_constant else ""

    def _rounded(self, node: Any, layer: str, read: NarrowInput) -> tuple[str, list[Any]]:
        """Name of what the layer reads in its bits, and the nodes that compute it, none where they are there."""
        dequantize = self._made_by.get(node.input[0])
        quantize = None if dequantize is None else self._made_by.get(dequantize.input[0])
        if dequantize is None or quantize is None or quantize.op_type != "QuantizeLinear":
            raise ExportError(f"{layer} cannot read {read.bits} bits: what it reads is not quantised in the file")
        key = (quantize.output[0], read)
        if key in self._narrow:
            return self._narrow[key], []
        others = [
            reader
            for each in self._readers[quantize.output[0]]
            for reader in self._readers[each.output[0]]
            if self._inputs.get(self._layer(reader)) != read
        ]
        # Who reads 8 bits of the same tensor keeps them, and the layer before it one rounding to compute in int8.
        source = dequantize.output[0] if others else quantize.input[0]
        name, make = f"{quantize.output[0]}/{len(self._narrow)}", self._onnx.helper.make_node
        scale, zero, largest, fine, middle = self._steps(read, name)
        self._narrow[key] = f"{name}/read"
        return self._narrow[key], [
            make("QuantizeLinear", [source, scale, zero], [f"{name}/steps"]),
            make("Clip", [f"{name}/steps", "", largest], [f"{name}/ends"]),
            make("DequantizeLinear", [f"{name}/ends", scale, zero], [f"{name}/values"]),
            make("QuantizeLinear", [f"{name}/values", fine, middle], [f"{name}/bytes"]),
            make("DequantizeLinear", [f"{name}/bytes", fine, middle], [self._narrow[key]]),
        ]

    def _steps(self, read: NarrowInput, name: str) -> list[str]:
        """Names of the scale, the zero point and the largest integer, and of the scale and zero point in bytes."""
        last = (1 << read.bits) - 1
        times = _BYTE // last
        arrays = {
            "scale": np.array(read.scale, dtype=np.float32),
            "zero": np.array(read.zero_point, dtype=np.uint8),
            "last": np.array(last, dtype=np.uint8),
            "fine": np.array(read.scale / times, dtype=np.float32),
            "middle": np.array(read.zero_point * times, dtype=np.uint8),
        }
        for part, array in arrays.items():
            self._graph.initializer.append(self._onnx.numpy_helper.from_array(array, f"{name}/{part}"))
        return [f"{name}/{part}" for part in arrays]
