"""Layers whose int8 sums would overflow on this processor, computed in float32 instead.

OpenVINO's x86 kernels without VNNI add two products of uint8 and int8 in 16 bits: exact for weights from -64 to 64, to
which NNCF limits those of first layers. The integers of a plan are what they are.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from reconvene.deploy.runtimes.base import imported

_LARGEST = 64
"""Two such weights times 255 fit into 16 bits."""
_SAME_VALUES = frozenset(
    {
        *("Concat", "Gather", "MaxPool", "Pad", "Relu", "Reshape", "ShuffleChannels", "Slice", "Split", "Squeeze"),
        *("StridedSlice", "Transpose", "Unsqueeze", "VariadicSplit", "DepthToSpace", "SpaceToDepth"),
    }
)
"""Operations that OpenVINO computes on integers where what they read was rounded."""


def may_overflow(integers: NDArray[Any]) -> bool:
    """Whether two products with these weights can be more than 16 bits hold."""
    return bool(np.abs(integers.astype(np.int64)).max(initial=0) > _LARGEST)


def read_in_float(node: Any) -> None:
    """Let an operation read what nobody has rounded, in place: OpenVINO computes it in float32 then."""
    node.input(0).replace_source_output(_unrounded(node.input_value(0)))


def _unrounded(output: Any) -> Any:
    """The same values before they were rounded: where an operation only moves them, of a copy of it."""
    node = output.get_node()
    if node.get_type_name() == "FakeQuantize":
        return node.input_value(0)
    if node.get_type_name() not in _SAME_VALUES:
        return output
    inputs = [node.input_value(port) for port in range(node.get_input_size())]
    unrounded = [_unrounded(source) for source in inputs]
    if all(new == old for new, old in zip(unrounded, inputs, strict=True)):
        return output
    factory = imported("openvino.utils.node_factory", "openvino", "packed OpenVINO").NodeFactory
    copied = factory(node.get_type_info().version_id).create(node.get_type_name(), unrounded, node.get_attributes())
    return copied.output(output.get_index())
