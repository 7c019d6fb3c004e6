"""Functions of an ONNX file: one that makes a weight from packed integers, and one that scales a bias.

A file holds each function once, and ONNX Runtime writes its nodes out where it is called, before it folds constants.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

_Array = NDArray[Any]
DOMAIN, VERSION = "rc", 3  # two letters: every node of it has the name
WEIGHT = "Weight"
WIDTHS = (2, 4, 8)
"""Bits of the blocks of a packed weight, in their order."""
OPSET = 20
_TYPES = {"uint8": 2, "int8": 3, "int32": 6, "int64": 7}
_INT, _INTS = 2, 7  # types of attributes


def packed_bytes(integers: _Array, bits: int) -> _Array:
    """Integers of so many bits as bytes, uint8 ``[bytes]``: the first in the lowest bits, zero at ``2^(bits - 1)``."""
    each = 8 // bits
    flat = integers.astype(np.int64).reshape(-1) + 2 ** (bits - 1)
    rows = np.concatenate([flat, np.zeros(-len(flat) % each, dtype=np.int64)]).reshape(-1, each)
    packed: _Array = (rows << (bits * np.arange(each))).sum(axis=1).astype(np.uint8)
    return packed


def weight_functions(helper: Any, dtype: str, *, transposed: bool) -> list[Any]:
    """The function that makes a dequantised weight from packed bytes, and those it calls before it.

    Inputs: bytes ``[n]`` uint8, the blocks of 2, 4 and 8 bits; the row of each output channel, blocks one after the
    other, ``[channels]``; scales ``[channels]``. Attributes: ``blocks``, the bytes of each block, then the integers of
    each; ``shape``, output channels first; if ``transposed``, ``perm`` and ``axis`` of the weight as its layer reads
    it.

    ``dtype``: int8, or uint8 around 128, in which the layer computes.
    """
    body = _Body(helper)
    sizes: dict[str, Any] = {name: body.reference(name, _INTS) for name in ("blocks", "shape")}
    weight = body.add("Rows", ["p", "o"], domain=DOMAIN, **sizes)
    middle = 0
    if dtype == "uint8":
        middle = 128
        weight = body.add("Add", [weight, body.add("Cast", [body.constant([middle])], to=_TYPES["int32"])])
    weight = body.add("Cast", [weight], to=_TYPES[dtype])
    middles = helper.make_tensor("", _TYPES[dtype], [1], [middle])
    zeros = body.add("ConstantOfShape", [body.add("Shape", ["s"])], value=middles)
    axis: Any = 0
    if transposed:
        weight = body.add("Transpose", [weight], perm=body.reference("perm", _INTS))
        axis = body.reference("axis", _INT)
    body.finish("DequantizeLinear", [weight, "s", zeros], axis=axis)
    name = f"{WEIGHT}{'T' * transposed}{'U' * (dtype == 'uint8')}"
    return [_block(helper), _rows(helper), body.function(name, ["p", "o", "s"])]


def _rows(helper: Any) -> Any:
    """The function that puts the rows of all blocks in their places: int32, output channels first."""
    body = _Body(helper)
    sizes, integers = body.add("Split", [body.attribute("blocks")], outputs=2, num_outputs=2)
    parts = body.add("Split", ["p", sizes], outputs=len(WIDTHS))
    counts = body.add("Split", [integers], outputs=len(WIDTHS), num_outputs=len(WIDTHS))
    blocks = []
    for bits, part, count in zip(WIDTHS, parts, counts, strict=True):
        divisors = [2**shift for shift in range(0, 8, bits)]
        blocks.append(body.add("Block", [part, count], domain=DOMAIN, d=divisors, n=[2**bits], h=[2 ** (bits - 1)]))
    rows = body.add("Reshape", [body.add("Concat", blocks, axis=0), body.attribute("shape")])
    body.finish("Gather", [rows, body.add("Cast", ["o"], to=_TYPES["int32"])])
    return body.function("Rows", ["p", "o"])


def _block(helper: Any) -> Any:
    """The function that takes bytes apart: each divided by ``d``, of which the lower ``n`` values are integers.

    Inputs: bytes ``[n]``, and how many integers they hold ``[1]``. ``h``: where zero is.
    """
    body = _Body(helper)
    divisors, levels, half = (body.add("Cast", [body.attribute(name)], to=_TYPES["int32"]) for name in "dnh")
    column = body.add("Unsqueeze", [body.add("Cast", ["p"], to=_TYPES["int32"]), body.constant([1])])
    integers = body.add("Mod", [body.add("Div", [column, divisors]), levels])
    flat = body.add("Reshape", [body.add("Sub", [integers, half]), body.constant([-1])])
    body.finish("Slice", [flat, body.constant([0]), "c"])
    return body.function("Block", ["p", "c"])


def bias_scale(helper: Any) -> Any:
    """The function that gives a bias the scale of its products: that of the activations times those of the weight."""
    body = _Body(helper)
    bias = body.add("Cast", ["b"], to=_TYPES["int32"])  # stored in as few bytes as hold it
    body.finish("DequantizeLinear", [bias, body.add("Mul", ["a", "w"])], axis=0)
    return body.function("Bias", ["b", "a", "w"])


def rounding(helper: Any) -> Any:
    """The function that rounds activations to 8 bits: quantised and dequantised, which int8 layers take in."""
    body = _Body(helper)
    body.finish("DequantizeLinear", [body.add("QuantizeLinear", ["x", "s", "z"]), "s", "z"])
    return body.function("Round", ["x", "s", "z"])


@dataclass(frozen=True)
class _Reference:
    """An attribute of the function, in place of a value; ``kind`` is its type in ONNX."""

    name: str
    kind: int


class _Body:
    """Nodes of a function, whose values have names of a letter or two."""

    def __init__(self, helper: Any) -> None:
        self._helper = helper
        self._nodes: list[Any] = []
        self._attributes: list[str] = []
        self._count = 0

    def add(self, operator: str, inputs: list[str], *, outputs: int = 1, **attributes: Any) -> Any:
        """Add a node; its output, or the list of them."""
        names = [self._name() for _ in range(outputs)]
        self._append(operator, inputs, names, attributes)
        return names[0] if outputs == 1 else names

    def finish(self, operator: str, inputs: list[str], **attributes: Any) -> None:
        """Add the node that computes the output of the function."""
        self._append(operator, inputs, ["y"], attributes)

    def constant(self, values: list[int]) -> str:
        """A constant tensor of int64, and its name."""
        name: str = self.add("Constant", [], value_ints=values)
        return name

    def reference(self, attribute: str, kind: int) -> _Reference:
        """An attribute of the function, to be the attribute of a node."""
        if attribute not in self._attributes:
            self._attributes.append(attribute)
        return _Reference(attribute, kind)

    def attribute(self, name: str) -> str:
        """An attribute of the function as a tensor of int64, and the name of the tensor."""
        tensor: str = self.add("Constant", [], value_ints=self.reference(name, _INTS))
        return tensor

    def function(self, name: str, inputs: list[str]) -> Any:
        """The function of the nodes so far."""
        opsets = [self._helper.make_opsetid("", OPSET)]
        if any(node.domain for node in self._nodes):
            opsets.append(self._helper.make_opsetid(DOMAIN, VERSION))
        return self._helper.make_function(DOMAIN, name, inputs, ["y"], self._nodes, opsets, self._attributes)

    def _append(self, operator: str, inputs: list[str], names: list[str], attributes: dict[str, Any]) -> None:
        values = {key: value for key, value in attributes.items() if not isinstance(value, _Reference)}
        node = self._helper.make_node(operator, inputs, names, **values)
        for key, value in attributes.items():
            if isinstance(value, _Reference):
                node.attribute.add(name=key, ref_attr_name=value.name, type=value.kind)
        self._nodes.append(node)

    def _name(self) -> str:
        self._count += 1
        return f"_{np.base_repr(self._count, 36).lower()}"
