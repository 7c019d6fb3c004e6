"""Weights of few bits in an OpenVINO IR: constants of four bits that are cast to int8, and computed in int8.

OpenVINO folds the cast when it loads the file, so layers run in its int8 kernels and take the memory and the time of
int8; what is smaller is the file. It has no constants of two bits that a convolution in int8 can read: those are stored
in four. Channels of the same width form a block; blocks stand one after the other, and a permutation of the *weight*
puts its channels where the network has them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reconvene.deploy.packed_rows import check_weights, folded_integers, four_bit_pairs
from reconvene.deploy.planned import PackedWeight
from reconvene.deploy.runtimes.base import imported
from reconvene.deploy.runtimes.openvino.overflow import may_overflow, read_in_float
from reconvene.errors import ExportError
from reconvene.utils.machine import saturates

_Array = NDArray[Any]
LAYERS = ("Convolution", "GroupConvolution", "ConvolutionBackpropData", "MatMul")
"""Operations with a weight."""
NARROW = 4
"""Bits of the narrowest constants that are cast to int8."""


@dataclass(frozen=True)
class WeightReader:
    """An operation that reads a weight: the weight's name in the network, and its float32 values, norms folded in."""

    weight: str
    folded: _Array


def weight_readers(ir: Any, weights: Mapping[str, PackedWeight]) -> dict[str, WeightReader]:
    """By the operation's name. Norms must be folded already (``fold_norms``).

    An operation has the name of its layer; one that makes an output has the output's, and is known by its values.
    Raises ExportError for a weight that no operation reads whole.
    """
    readers: dict[str, WeightReader] = {}
    names, left, unnamed = PackedWeight.by_every_name(weights), set(weights), []
    for node in _layers(ir):
        name = names.get(f"{node.get_friendly_name().split('/')[0]}.weight", "")
        if name:  # several operations, where a layer is called twice or weights are tied
            readers[node.get_friendly_name()] = WeightReader(name, _folded(node))
            left.discard(name)
        else:
            unnamed.append(node)
    for node in unnamed:
        values = _folded(node)
        name = next((name for name in sorted(weights) if _fits(weights[name], node, values)), "")
        if name:
            readers[node.get_friendly_name()] = WeightReader(name, values)
            left.discard(name)
    if left:
        raise ExportError(
            f"{', '.join(sorted(left)[:3])} cannot be packed for OpenVINO: no layer of its graph reads it whole. "
            "Export it to onnx, or with quantize='int8'"
        )
    return readers


def _folded(node: Any) -> _Array:
    """What an operation reads as its weight; of a product of two activations, which has none, an empty array."""
    behind = _constant(node, 1)
    if behind.get_type_name() != "Constant":
        return np.zeros(0, np.float32)
    values: _Array = behind.get_data().copy()
    return values


def _fits(packed: PackedWeight, node: Any, values: _Array) -> bool:
    if values.size != packed.quantised.integers.numel():
        return False
    try:
        folded_integers(packed, _rows(node, values), _axis(node), "")
    except ExportError:
        return False
    return True


def fold_norms(ir: Any) -> None:
    """Fold norms into the weights before them, in place, as NNCF and OpenVINO do before they quantise."""
    imported("openvino._offline_transformations", "openvino", "packed OpenVINO").apply_moc_transformations(ir, cf=False)


def pack_weights(quantised: Any, readers: Mapping[str, WeightReader], weights: Mapping[str, PackedWeight]) -> list[str]:
    """Put packed weights into a model that NNCF quantised, in place.

    Returns the weights whose int8 products would overflow on this processor: their layers compute in float32.
    Raises ExportError for a weight that the file does not have in int8.
    """
    nodes, in_float = {node.get_friendly_name(): node for node in _layers(quantised)}, dict[str, None]()
    for operation, reader in readers.items():
        if operation not in nodes:
            raise ExportError(f"{reader.weight} cannot be packed: OpenVINO renamed its layer, {operation}")
        node, name = nodes[operation], reader.weight
        multiply, convert = _dequantising(node, name)
        constant = convert.input_value(0).get_node()
        shape = list(constant.get_output_shape(0))
        axis = _axis(node)
        integers, scale = folded_integers(weights[name], _rows(node, reader.folded), axis, name)
        block = _packed(np.moveaxis(integers, axis, 0), weights[name].layer.bits, axis)
        opset = imported("openvino.opset13", "openvino", "packed OpenVINO")
        if list(block.get_output_shape(0)) != shape:
            block = opset.reshape(block, np.array(shape, dtype=np.int64), special_zero=False)
        scales = scale.astype(np.float32).reshape(multiply.input_value(1).get_node().get_output_shape(0))
        convert.input(0).replace_source_output(block.output(0))
        multiply.input(1).replace_source_output(opset.constant(scales).output(0))
        if saturates() and may_overflow(integers):
            read_in_float(node)
            in_float[name] = None
    return list(in_float)


def check_packed(plain: Any, packed: Any, readers: Mapping[str, WeightReader], feeds: Mapping[str, _Array]) -> None:
    """See ``check_weights``: the float32 model beside the packed one, on the same inputs.

    Weights that no plan decides, which NNCF rounded, are those of the float32 model in both.
    """
    openvino = imported("openvino", "openvino", "packed OpenVINO")
    # by default it rounds what linear layers with integer weights read
    settings = {"INFERENCE_PRECISION_HINT": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0}
    results = [
        openvino.Core().compile_model(model, "CPU", settings)(dict(feeds)).values()
        for model in (plain, _with_float_activations(packed, plain, readers))
    ]
    check_weights(*results)


def source(node: Any, port: int) -> str:
    """Name of the constant behind an input, past reshapes and conversions."""
    return str(_constant(node, port).get_friendly_name())


def _constant(node: Any, port: int) -> Any:
    behind = node.input_value(port).get_node()
    while behind.get_type_name() != "Constant" and behind.get_input_size():
        behind = behind.input_value(0).get_node()
    return behind


def _behind(node: Any, port: int) -> list[Any]:
    """The node behind an input, and where it only reshapes, those behind it, up to one that does not."""
    found = [node.input_value(port).get_node()]
    while found[-1].get_type_name() in ("Reshape", "Transpose"):
        found.append(found[-1].input_value(0).get_node())
    return found


def _layers(ir: Any) -> list[Any]:
    return [node for node in ir.get_ordered_ops() if node.get_type_name() in LAYERS]


def _dequantising(node: Any, name: str) -> tuple[Any, Any]:
    """The multiplication and the conversion between an int8 constant and its layer."""
    multiply = _behind(node, 1)[-1]
    convert = multiply.input_value(0).get_node() if multiply.get_input_size() else multiply
    if (multiply.get_type_name(), convert.get_type_name()) != ("Multiply", "Convert"):
        raise ExportError(f"{name} cannot be packed: OpenVINO does not compute its layer in int8")
    return multiply, convert


def _axis(node: Any) -> int:
    """Along which axis of its weight, groups aside, an operation has its output channels."""
    kind = node.get_type_name()
    if kind == "MatMul":
        return 0 if node.get_attributes()["transpose_b"] else 1
    return 1 if kind == "ConvolutionBackpropData" else 0


def _rows(node: Any, weight: _Array) -> _Array:
    """A weight without an axis of groups: ``[groups, out, in, *kernel]`` becomes ``[groups * out, in, *kernel]``."""
    if node.get_type_name() == "GroupConvolution":
        return weight.reshape(-1, *weight.shape[2:])
    return weight


def _packed(rows: _Array, bits: _Array, axis: int) -> Any:
    """The int8 weight, channels along ``axis``, as the graph computes it; ``rows`` are ``[channels, ...]``."""
    opset = imported("openvino.opset13", "openvino", "packed OpenVINO")
    narrow, wide = (np.flatnonzero(chosen) for chosen in (bits <= NARROW, bits > NARROW))
    blocks = []
    if narrow.size:
        blocks.append(opset.convert(_four_bits(rows[narrow]), np.int8))
    if wide.size:
        blocks.append(opset.constant(np.ascontiguousarray(rows[wide])))
    weight = blocks[0] if len(blocks) == 1 else opset.concat(blocks, 0)
    if len(blocks) > 1:
        places = np.argsort(np.concatenate([narrow, wide])).astype(np.int32)
        weight = opset.gather(weight, opset.constant(places), opset.constant(np.int32(0)))
    if axis:
        order = [*range(1, axis + 1), 0, *range(axis + 1, rows.ndim)]
        weight = opset.transpose(weight, opset.constant(np.array(order, dtype=np.int32)))
    return weight


def _four_bits(rows: _Array) -> Any:
    """A constant of four bits: two integers a byte, the first in the lower half."""
    openvino = imported("openvino", "openvino", "packed OpenVINO")
    tensor = openvino.Tensor(four_bit_pairs(rows), list(rows.shape), openvino.Type.i4)
    # without its own copy a constant reads memory that is given back
    return openvino.op.Constant(tensor, shared_memory=False)


def _with_float_activations(packed: Any, plain: Any, readers: Mapping[str, WeightReader]) -> Any:
    """A copy that rounds the weights of readers only."""
    copy = packed.clone()
    opset = imported("openvino.opset13", "openvino", "packed OpenVINO")
    originals = {node.get_friendly_name(): node for node in plain.get_ordered_ops()}
    packed_behind = {node.get_friendly_name() for name in readers for node in _behind(originals[name], 1)}
    for node in copy.get_ordered_ops():
        name = node.get_friendly_name()
        if name not in originals or name in packed_behind or name in readers:
            continue
        original = originals[name]
        for port in range(node.get_input_size()):
            constant, rounded = original.input_value(port).get_node(), node.input_value(port).get_node()
            if (constant.get_type_name(), rounded.get_type_name()) == ("Constant", "Multiply"):
                node.input(port).replace_source_output(opset.constant(constant.get_data()).output(0))
    for node in copy.get_ordered_ops():
        if node.get_type_name() == "FakeQuantize":
            node.output(0).replace(node.input_value(0))
    return copy
