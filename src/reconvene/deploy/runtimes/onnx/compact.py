"""An ONNX graph in fewer bytes: of a small network names and attributes take more of them than numbers."""

from __future__ import annotations

from typing import Any

import numpy as np

from reconvene.deploy.runtimes.base import imported


def compact(proto: Any) -> None:
    """Drop what holds without being said, let equal constants be one, and shorten names, in place."""
    opset = next(entry.version for entry in proto.opset_import if entry.domain in ("", "ai.onnx"))
    _drop_defaults(imported("onnx", "onnx", "packed ONNX"), proto.graph, opset)
    _share_equal(proto.graph)
    _shorten(proto.graph)


def _drop_defaults(onnx: Any, graph: Any, opset: int) -> None:
    """Drop attributes that say what holds without them."""
    for node in graph.node:
        if node.domain:
            continue
        known = onnx.defs.get_schema(node.op_type, opset).attributes
        for number in reversed(range(len(node.attribute))):
            attribute = node.attribute[number]
            value, default = onnx.helper.get_attribute_value(attribute), known[attribute.name].default_value
            is_default = default.type and onnx.helper.get_attribute_value(default) == value
            if is_default or (node.op_type in ("Conv", "ConvTranspose") and _follows(attribute.name, value)):
                del node.attribute[number]


def _follows(name: str, value: Any) -> bool:
    """Whether a convolution without this attribute is the same; the weight has its ``kernel_shape``."""
    plain = {"pads": 0, "strides": 1, "dilations": 1}
    return name == "kernel_shape" or (name in plain and all(number == plain[name] for number in value))


def _share_equal(graph: Any) -> None:
    """Let equal constants be one, such as the zero of most activations."""
    first: dict[bytes, str] = {}
    same = {}
    for tensor in graph.initializer:
        key = type(tensor).FromString(tensor.SerializeToString())
        key.ClearField("name")
        same[tensor.name] = first.setdefault(key.SerializeToString(deterministic=True), tensor.name)
    for node in graph.node:
        node.input[:] = [same.get(name, name) for name in node.input]
    for number in reversed(range(len(graph.initializer))):
        if same[graph.initializer[number].name] != graph.initializer[number].name:
            del graph.initializer[number]


def _shorten(graph: Any) -> None:
    """Give everything inside short names."""
    public = {value.name for value in (*graph.input, *graph.output)}
    short: dict[str, str] = {"": ""}

    def name(long: str) -> str:
        if long in public:
            return long
        if long not in short:
            short[long] = np.base_repr(len(short), 36).lower()
            while short[long] in public:
                short[long] += "_"
        return short[long]

    for node in graph.node:
        node.input[:] = [name(value) for value in node.input]
        node.output[:] = [name(value) for value in node.output]
        node.ClearField("name")
        node.ClearField("doc_string")
    for tensor in graph.initializer:
        tensor.name = name(tensor.name)
