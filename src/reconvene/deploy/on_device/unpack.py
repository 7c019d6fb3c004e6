"""The weights of an ONNX file with packed bits, read with numpy: an independent look at what it holds."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np


def unpack_weights(path: str) -> Iterator[tuple[Any, Any]]:
    """Integers [channels, ...] of every packed weight, once each, and the bits of its channels."""
    import onnx  # nothing else of a bundle needs it

    graph = onnx.load(path).graph
    arrays = {t.name: onnx.numpy_helper.to_array(t) for t in graph.initializer}
    seen = set()  # a layer that is called twice, before two norms, has its integers once and two sets of scales
    for node in graph.node:
        if node.domain != "rc" or not node.op_type.startswith("Weight") or tuple(node.input[:2]) in seen:
            continue
        seen.add(tuple(node.input[:2]))
        packed, order = (arrays[name] for name in node.input[:2])
        sizes = {a.name: list(a.ints) for a in node.attribute}
        shape, blocks, channel_bits = sizes["shape"], [], []
        for bits, stored, count in zip((2, 4, 8), sizes["blocks"][:3], sizes["blocks"][3:]):
            shifts = bits * np.arange(8 // bits)  # the first integer lies in the lowest bits
            integers = packed[:stored, None].astype(int) >> shifts & 2**bits - 1
            blocks.append(integers.reshape(-1)[:count] - 2 ** (bits - 1))
            channel_bits += [bits] * (count * shape[0] // int(np.prod(shape)))
            packed = packed[stored:]
        yield np.concatenate(blocks).reshape(shape)[order], np.array(channel_bits)[order]
