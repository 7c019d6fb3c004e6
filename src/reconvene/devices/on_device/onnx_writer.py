"""ONNX models as bytes, with nothing but numpy: what ``probe`` runs on a device that has no ``onnx`` package.

Only what the probes need of the format (protobuf field numbers of ``onnx.proto``). This file imports nothing of
Reconvene, so that it can be copied to a device beside ``probe.py``.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

import numpy as np

OPSET, IR_VERSION = 20, 9
FLOAT, UINT8, INT8, INT32, INT64 = 1, 2, 3, 6, 7
_DTYPES = {FLOAT: np.float32, UINT8: np.uint8, INT8: np.int8, INT32: np.int32, INT64: np.int64}
_POOL = np.random.default_rng(0).standard_normal(1 << 16).astype(np.float32) * 0.05


class Graph:
    """An ONNX graph under construction; ``precision`` ``int8`` puts a Quantize and Dequantize pair on every edge."""

    def __init__(self, precision: str = "fp32") -> None:
        self.int8 = precision == "int8"
        self._nodes: list[bytes] = []
        self._initializers: list[bytes] = []
        self._inputs: list[bytes] = []
        self._outputs: list[bytes] = []
        self.shapes: dict[str, tuple[int, ...]] = {}
        self._number = 0
        self.prefix = ""
        """Of the names that are given from now on."""

    def input(self, name: str, shape: Sequence[int]) -> str:
        """A float input of fixed shape."""
        name = self.prefix + name
        self._inputs.append(_value_info(name, shape))
        self.shapes[name] = tuple(shape)
        return self.edge(name)

    def output(self, name: str) -> None:
        """Make a value an output of the graph."""
        self._outputs.append(_value_info(name, None))

    def node(self, op: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        """One operator with one output, which gives the node its name; returns that."""
        output = self.prefix + output
        body = b"".join(_text(1, name) for name in inputs) + _text(2, output) + _text(3, output) + _text(4, op)
        body += b"".join(_bytes(5, _attribute(key, value)) for key, value in attributes.items())
        self._nodes.append(_bytes(1, body))
        return output

    def constant(self, values: Any, data_type: int) -> str:
        """A tensor of the file; returns its name."""
        self._number += 1
        name = f"const{self._number}"
        array = np.asarray(values, dtype=_DTYPES[data_type])
        body = b"".join(_int(1, size) for size in array.shape) + _int(2, data_type) + _text(8, name)
        self._initializers.append(_bytes(5, body + _bytes(9, array.tobytes())))
        return name

    def weight(self, *shape: int) -> str:
        """A weight of this shape: float noise, or int8 noise behind a Dequantize."""
        noise = np.resize(_POOL, shape)
        if not self.int8:
            return self.constant(noise, FLOAT)
        stored = self.constant((noise * 400).astype(np.int8), INT8)
        return self.node("DequantizeLinear", [stored, *self._scale(0.0025, INT8)], f"{stored}.dq")

    def bias(self, size: int) -> str:
        """A bias: float, or int32 at the scale of activation times weight."""
        if not self.int8:
            return self.constant(np.zeros(size), FLOAT)
        stored = self.constant(np.zeros(size), INT32)
        return self.node("DequantizeLinear", [stored, *self._scale(0.0025 * 0.02, INT32)], f"{stored}.dq")

    def edge(self, name: str) -> str:
        """The value as the next operator reads it: itself, or through a Quantize and Dequantize pair."""
        if not self.int8:
            return name
        stored = self.node("QuantizeLinear", [name, *self._scale(0.02, UINT8)], f"{name}.q")
        return self.node("DequantizeLinear", [stored, *self._scale(0.02, UINT8)], f"{name}.dq")

    def _scale(self, scale: float, data_type: int) -> tuple[str, str]:
        return self.constant(np.float32(scale), FLOAT), self.constant(0, data_type)

    def to_bytes(self) -> bytes:
        """The model file."""
        graph = b"".join(self._nodes) + _text(2, "probe") + b"".join(self._initializers)
        graph += b"".join(_bytes(11, value) for value in self._inputs)
        graph += b"".join(_bytes(12, value) for value in self._outputs)
        opsets = _bytes(8, _text(1, "") + _int(2, OPSET)) + _bytes(8, _text(1, "com.microsoft") + _int(2, 1))
        return _int(1, IR_VERSION) + _text(2, "reconvene") + _bytes(7, graph) + opsets


def _varint(value: int) -> bytes:
    value &= (1 << 64) - 1
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _int(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(int(value))


def _bytes(field: int, body: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(body)) + body


def _text(field: int, text: str) -> bytes:
    return _bytes(field, text.encode())


def _attribute(name: str, value: Any) -> bytes:
    head = _text(1, name)
    if isinstance(value, float):
        return head + _varint(2 << 3 | 5) + struct.pack("<f", value) + _int(20, 1)
    if isinstance(value, int):
        return head + _int(3, value) + _int(20, 2)
    if isinstance(value, str):
        return head + _text(4, value) + _int(20, 3)
    return head + b"".join(_int(8, item) for item in value) + _int(20, 7)


def _value_info(name: str, shape: Sequence[int] | None) -> bytes:
    dims = b"" if shape is None else _bytes(2, b"".join(_bytes(1, _int(1, size)) for size in shape))
    return _text(1, name) + _bytes(2, _bytes(1, _int(1, FLOAT) + dims))
