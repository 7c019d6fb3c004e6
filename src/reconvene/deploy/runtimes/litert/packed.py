"""The bits of a plan in a ``.tflite`` file: the plan's own integers, and layers of at most four bits stored in four.

A tensor of LiteRT has one type, so a layer with a channel of eight bits is stored in eight throughout.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from reconvene.deploy.packed_rows import four_bit_pairs
from reconvene.deploy.planned import PackedWeight
from reconvene.deploy.pt2e import KEY
from reconvene.deploy.runtimes.base import imported
from reconvene.deploy.tracing import module_of
from reconvene.errors import ExportError, VerificationError

NARROW = 4
"""Bits of the narrowest integers that LiteRT computes with."""
_BEYOND = 2 ** (NARROW - 1)
"""The first magnitude that these cannot hold."""
_LAYERS = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV")
"""Operators whose second input is a weight."""
_Ints = NDArray[np.int8]


def plan_weights(quantizer: Any, packed: Mapping[str, PackedWeight]) -> None:
    """Have a PT2E quantiser round these weights to the integers of the plan, in place.

    The tracer has folded norms into weights then. A norm multiplies a channel by a number, which goes into its scale:
    the largest of a channel stands for the largest integer that the plan has there.
    """
    annotate, names = quantizer.annotate, PackedWeight.by_every_name(packed)

    def annotate_planned(graph: torch.fx.GraphModule) -> torch.fx.GraphModule:
        annotated: torch.fx.GraphModule = annotate(graph)
        rounded = {name for node in annotated.graph.nodes for name in _specify(node, packed, names)}
        if missing := [name for name in packed if name not in rounded]:
            raise ExportError(
                f"{missing[0]} cannot be packed: LiteRT's quantiser leaves its layer in float32. Export with "
                "quantize='int8', or to onnx"
            )
        return annotated

    quantizer.annotate = annotate_planned


def _specify(node: torch.fx.Node, packed: Mapping[str, PackedWeight], names: Mapping[str, str]) -> list[str]:
    """Have the weight of a layer's call rounded as planned; the weight's name, nothing for other nodes."""
    name = names.get(f"{module_of(node)}.weight", "")
    if name not in packed or KEY not in node.meta:
        return []
    specifications = node.meta[KEY].input_qspec_map
    weights = [source for source, asked in specifications.items() if getattr(asked, "ch_axis", None) is not None]
    for source in weights:
        specifications[source] = _planned(specifications[source], packed[name])
    return [name] * len(weights)


def _planned(specification: Any, weight: PackedWeight) -> Any:
    """The specification of a weight with scales by which it becomes the plan's integers."""
    base = imported("torchao.quantization.pt2e.observer", "litert", "packed LiteRT").PerChannelMinMaxObserver
    integers = weight.quantised.integers.detach().cpu().movedim(weight.quantised.axis, 0).flatten(1)
    peaks = integers.abs().amax(dim=1).clamp(min=1).double()

    def calculate_qparams(observer: Any) -> tuple[Tensor, Tensor]:
        largest = torch.maximum(observer.max_val.abs(), observer.min_val.abs()).double()
        scale = (largest / peaks.to(largest)).clamp(min=1e-12).float()
        return scale, torch.zeros_like(scale, dtype=torch.int64)

    # torchao tells by the name whether an observer takes an axis
    observer = type("PlannedPerChannelObserver", (base,), {"calculate_qparams": calculate_qparams})
    return replace(specification, observer_or_fake_quant_ctr=observer)


def pack_file(path: Path, packed: Mapping[str, PackedWeight]) -> int:
    """Store in four bits, in place, what a file holds in eight although four are enough.

    Returns how many channels of at most four bits stay in eight, beside others of their layer.
    Raises VerificationError where the file has other integers than the plan.
    """
    schema = imported("ai_edge_litert.schema_py_generated", "litert", "packed LiteRT")
    flatbuffers = imported("flatbuffers", "litert", "packed LiteRT")
    content = schema.ModelT.InitFromPackedBuf(path.read_bytes(), 0)
    tensors = [tensor for graph in content.subgraphs for tensor in _weights(schema, content, graph)]
    rows = [_rows(content, tensor) for tensor in tensors]
    _require_integers(packed, rows)
    narrow = [np.abs(values).max(initial=0) < _BEYOND for values in rows]
    buffers = {tensor.buffer for tensor, fits in zip(tensors, narrow, strict=True) if fits}
    for number in buffers:
        buffer = content.buffers[number]
        buffer.data = four_bit_pairs(np.asarray(buffer.data, np.uint8))
    for tensor in tensors:
        if tensor.buffer in buffers:
            tensor.type = schema.TensorType.INT4
    builder = flatbuffers.Builder(1024)
    builder.Finish(content.Pack(builder), b"TFL3")
    path.write_bytes(bytes(builder.Output()))
    layers = [weight.layer.bits for weight in packed.values()]
    return sum(int((bits <= NARROW).sum()) for bits in layers if bits.max(initial=0) > NARROW)


def _weights(schema: Any, content: Any, graph: Any) -> list[Any]:
    """The int8 weights of layers, each tensor once."""
    names = {value: name for name, value in vars(schema.BuiltinOperator).items() if name.isupper()}
    tensors: dict[int, Any] = {}
    for operator in graph.operators:
        if names.get(content.operatorCodes[operator.opcodeIndex].builtinCode) in _LAYERS:
            number = int(operator.inputs[1])
            tensor = graph.tensors[number]
            if tensor.type == schema.TensorType.INT8 and content.buffers[tensor.buffer].data is not None:
                tensors[number] = tensor
    return list(tensors.values())


def _rows(content: Any, tensor: Any) -> _Ints:
    """The integers of a weight, one row an output channel."""
    values = np.asarray(content.buffers[tensor.buffer].data, np.uint8).view(np.int8).reshape(tensor.shape)
    rows: _Ints = np.moveaxis(values, tensor.quantization.quantizedDimension, 0)
    return rows.reshape(len(rows), -1)


def _require_integers(packed: Mapping[str, PackedWeight], rows: list[_Ints]) -> None:
    """Raise VerificationError unless the file has the integers of every weight, in whatever order LiteRT keeps them."""
    unseen = [_sorted(values) for values in rows]
    for name, weight in packed.items():
        integers = weight.quantised.integers.cpu().movedim(weight.quantised.axis, 0).flatten(1).numpy()
        place = next((i for i, values in enumerate(unseen) if _same(values, _sorted(integers))), None)
        if place is None:
            raise VerificationError(
                f"the file does not hold the integers of {name} that the plan has. Please report it; quantize='int8' "
                "does not need them"
            )
        del unseen[place]


def _sorted(rows: NDArray[Any]) -> NDArray[np.int64]:
    """Rows in ascending order, each with the sign that makes its largest sum: a norm may turn the sign of a channel."""
    ascending = np.sort(rows.astype(np.int64), axis=1)
    turned = np.sort(-ascending, axis=1)
    first = [tuple(row) >= tuple(other) for row, other in zip(ascending.tolist(), turned.tolist(), strict=True)]
    return np.where(np.array(first, dtype=bool)[:, None], ascending, turned)


def _same(values: NDArray[np.int64], expected: NDArray[np.int64]) -> bool:
    return values.shape == expected.shape and bool((values == expected).all())
