"""Functions of an ONNX file that unpack integers of few bits, put channels in order, and give biases their scale.

A file holds each function once, and ONNX Runtime writes its nodes out where it is called, before it folds constants.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

_Array = NDArray[Any]
DOMAIN, VERSION = "reconvene", 1
_OPSET = 20


def packed_bytes(integers: _Array, bits: int) -> _Array:
    """Integers of so many bits as bytes, uint8 ``[bytes, 1]``, the first in the lowest bits."""
    each = 8 // bits
    flat = integers.astype(np.int64).reshape(-1) + 2 ** (bits - 1)
    rows = np.concatenate([flat, np.zeros(-len(flat) % each, dtype=np.int64)]).reshape(-1, each)
    packed: _Array = (rows << (bits * np.arange(each))).sum(axis=1, keepdims=True).astype(np.uint8)
    return packed


def _unpack(bits: int, dtype: str) -> Callable[[Any], Any]:
    """The function that unpacks bytes into a flat tensor of integers of a type, those of uint8 around 128."""

    def define(helper: Any) -> Any:
        shifts = np.array([[bits * i for i in range(8 // bits)]], dtype=np.uint8)
        offset = (128 if dtype == "uint8" else 0) - 2 ** (bits - 1)
        types = {"uint8": 2, "int8": 3, "int32": 6}
        tensor = helper.make_tensor
        nodes = [
            helper.make_node("Constant", [], ["s"], value=tensor("", 2, shifts.shape, shifts.tobytes(), raw=True)),
            helper.make_node("Constant", [], ["m"], value=tensor("", 2, [], bytes([2**bits - 1]), raw=True)),
            helper.make_node("Constant", [], ["o"], value=tensor("", 6, [], [offset])),
            helper.make_node("Constant", [], ["f"], value_ints=[-1]),
            helper.make_node("BitShift", ["p", "s"], ["a"], direction="RIGHT"),
            helper.make_node("BitwiseAnd", ["a", "m"], ["b"]),
            helper.make_node("Cast", ["b"], ["c"], to=types["int32"]),
            helper.make_node("Add", ["c", "o"], ["d"]),
            helper.make_node("Cast", ["d"], ["e"], to=types[dtype]),
            helper.make_node("Reshape", ["e", "f"], ["y"]),
        ]
        return _function(helper, f"Unpack{bits}{dtype}", ["p"], nodes)

    return define


UNPACK = {(bits, dtype): _unpack(bits, dtype) for bits in (2, 4) for dtype in ("int8", "uint8")}


def order(helper: Any) -> Any:
    """The function that gives a flat weight its shape and puts its channels where the network has them."""
    nodes = [
        helper.make_node("Reshape", ["w", "n"], ["a"]),
        helper.make_node("Cast", ["p"], ["b"], to=6),
        helper.make_node("Gather", ["a", "b"], ["y"], axis=0),
    ]
    return _function(helper, "Order", ["w", "n", "p"], nodes)


def bias_scale(helper: Any) -> Any:
    """The function that gives a bias the scale of its products: that of the activations times those of the weight."""
    nodes = [
        helper.make_node("Mul", ["a", "w"], ["s"]),
        helper.make_node("DequantizeLinear", ["b", "s"], ["y"], axis=0),
    ]
    return _function(helper, "Bias", ["b", "a", "w"], nodes)


def _function(helper: Any, name: str, inputs: list[str], nodes: list[Any]) -> Any:
    return helper.make_function(DOMAIN, name, inputs, ["y"], nodes, [helper.make_opsetid("", _OPSET)])
