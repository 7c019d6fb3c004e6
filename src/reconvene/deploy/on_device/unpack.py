"""The weights of an ONNX file with packed bits, read with numpy: an independent look at what it holds."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np


def unpack_weights(path: str) -> Iterator[tuple[Any, Any]]:
    """Integers [channels, ...] of every packed weight, and the bits of its channels."""
    import onnx  # nothing else of a bundle needs it

    graph = onnx.load(path).graph
    arrays = {t.name: onnx.numpy_helper.to_array(t) for t in graph.initializer}
    source = {n.output[0]: n for n in graph.node}

    def block(name: str) -> tuple[Any, int]:
        """Integers of one block, flat, and their bits."""
        node = source.get(name)
        if node is None:
            return arrays[name].astype(int) - (128 if arrays[name].dtype == np.uint8 else 0), 8
        if node.op_type == "Slice":
            values, bits = block(node.input[0])
            return values[: int(arrays[node.input[2]][0])], bits
        bits = int(node.op_type[len("Unpack")])
        shifts = bits * np.arange(8 // bits)
        return ((arrays[node.input[0]] >> shifts & 2**bits - 1) - 2 ** (bits - 1)).reshape(-1), bits

    for node in graph.node:
        reshape = source.get(node.input[0]) if node.op_type == "DequantizeLinear" else None
        if reshape is not None and reshape.op_type == "Transpose":  # the weight stands on the right of a product
            reshape = source[reshape.input[0]]
        if reshape is None or reshape.op_type not in ("Order", "Reshape"):
            continue
        flat, shape = reshape.input[0], arrays[reshape.input[1]]
        names = source[flat].input if flat in source and source[flat].op_type == "Concat" else [flat]
        blocks = [block(name) for name in names]
        values = np.concatenate([v for v, _ in blocks]).reshape(shape)
        bits = np.concatenate([np.full(len(v) * shape[0] // values.size, b) for v, b in blocks])
        order = arrays[reshape.input[2]] if reshape.op_type == "Order" else np.arange(shape[0])
        yield values[order], bits[order]
