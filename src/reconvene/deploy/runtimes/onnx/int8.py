"""int8 ONNX: static quantisation by ONNX Runtime's own tool, in the form its x86 kernels are fastest with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from reconvene._version import __version__
from reconvene.deploy.model_io import leaves
from reconvene.deploy.packed_rows import check_weights
from reconvene.deploy.quantisation import Quantisation, within
from reconvene.deploy.runtimes.base import imported
from reconvene.deploy.runtimes.onnx.packed import pack_weights
from reconvene.errors import ExportError
from reconvene.utils.machine import saturates

_BATCH = 32
_WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")


def quantised_onnx(
    plain: Path, path: Path, inputs: list[str], quantisation: Quantisation, *, batch: int | None = None
) -> list[Path]:
    """Quantise the float32 file ``plain`` into ``path``: QDQ, activations uint8, weights int8 per output channel.

    U8S8, because S8S8 is 2.6 times slower on x86. On a processor where its sums overflow (``saturates``) weights have 7
    bits, or the file could not be verified there. Ranges are the smallest and largest values seen in calibration.
    The weights and inputs of layers in ``keep_fp32`` stay in float32; ``batch`` is the static batch of ``plain``, where
    it has one. Same file and samples, same bytes.
    """
    tool = imported("onnxruntime.quantization", "onnx", "int8 ONNX")
    onnx = imported("onnx", "onnx", "int8 ONNX")
    prepared = plain.with_name(f"{plain.stem}.prepared.onnx")
    try:
        # Folds what can be folded and names every shape: without it, scales are taken of tensors that no kernel sees.
        # Shapes are all known from our exporter, and the symbolic pass stops at operators it does not know.
        tool.shape_inference.quant_pre_process(str(plain), str(prepared), skip_symbolic_shape=True)
        _copy_tied(onnx, prepared)
        graph = onnx.load(prepared, load_external_data=False).graph
        nodes = [node.name for node in graph.node]
        in_float = [name for name in nodes if within(name.split("/")[0], quantisation.keep_fp32)]
        _require_nodes(quantisation.keep_fp32, {name.split("/")[0] for name in in_float})
        tool.quantize_static(
            str(prepared),
            str(path),
            _reader(tool, inputs, quantisation, batch),
            quant_format=tool.QuantFormat.QDQ,
            activation_type=tool.QuantType.QUInt8,
            weight_type=tool.QuantType.QInt8,
            per_channel=True,
            reduce_range=saturates() and not quantisation.packed,
            nodes_to_exclude=in_float,
            calibrate_method=tool.CalibrationMethod.MinMax,
            # By default a ReLU before a uint8 tensor is dropped, since that has no negative values: a kept layer that
            # reads what stands before that tensor would read them.
            extra_options={
                "QDQKeepRemovableActivations": bool(in_float),
                "TensorQuantOverrides": _one_scale(tool, graph, reduced=saturates() and not quantisation.packed),
            },
        )
        folded = onnx.load(prepared) if quantisation.packed else None
    finally:
        prepared.unlink(missing_ok=True)
    proto = onnx.load(path)
    _read_in_float(proto.graph, set(in_float))
    if quantisation.packed:
        exact = pack_weights(proto, quantisation.packed_in_int8, folded, quantisation.inputs)
        _check_weights(
            plain, exact, dict(zip(inputs, leaves(next(quantisation.batches(batch or _BATCH))), strict=True))
        )
    proto.producer_name, proto.producer_version = "reconvene", __version__
    _forget_tool(proto)
    onnx.save(proto, path)
    return [path]


def _copy_tied(onnx: Any, path: Path) -> None:
    """Give what reads the weight of a layer otherwise, such as an embedding, a copy of its own, in place.

    The weight has one scale a channel, and the tool rounds a table by one scale.
    """
    graph = onnx.load(path, load_external_data=False).graph
    weights = {node.input[1] for node in graph.node if node.op_type in _WEIGHTED}
    others = {(n, i) for n, node in enumerate(graph.node) for i, name in enumerate(node.input) if name in weights}
    others -= {(n, 1) for n, node in enumerate(graph.node) if node.op_type in _WEIGHTED}
    tied = {graph.node[n].input[i] for n, i in others} & {tensor.name for tensor in graph.initializer}
    if not tied:
        return
    proto = onnx.load(path)
    for tensor in [tensor for tensor in proto.graph.initializer if tensor.name in tied]:
        copied = proto.graph.initializer.add()
        copied.CopyFrom(tensor)
        copied.name = f"{tensor.name}/copy"
    for n, i in others:
        if proto.graph.node[n].input[i] in tied:
            proto.graph.node[n].input[i] += "/copy"
    onnx.save(proto, path)


def _one_scale(tool: Any, graph: Any, *, reduced: bool) -> dict[str, list[dict[str, Any]]]:
    """Weights that the tool must round by one scale each: it takes rows of a grouped transposed convolution wrongly.

    These are the output channels of one group, and the bias has those of all groups.
    """
    grouped = [
        node.input[1]
        for node in graph.node
        if node.op_type == "ConvTranspose" and any(a.name == "group" and a.i > 1 for a in node.attribute)
    ]
    return {
        name: [{"quant_type": tool.QuantType.QInt8, "symmetric": True, "reduce_range": reduced}] for name in grouped
    }


def _forget_tool(proto: Any) -> None:
    """Drop the notes of the tool, and the operator sets that it names and nothing uses."""
    nodes = [*proto.graph.node, *(node for function in proto.functions for node in function.node)]
    used = {"", *(node.domain for node in nodes)}
    for entries, kept in (
        (proto.opset_import, [opset for opset in proto.opset_import if opset.domain in used]),
        (proto.metadata_props, [entry for entry in proto.metadata_props if not entry.key.startswith("onnx.")]),
    ):
        copies = [type(entry).FromString(entry.SerializeToString()) for entry in kept]
        del entries[:]
        entries.extend(copies)


def _check_weights(plain: Path, exact: Any, feeds: dict[str, Tensor]) -> None:
    """See ``check_weights``: the float32 file beside the packed one, on the same inputs."""
    runtime = imported("onnxruntime", "onnx", "packed ONNX")
    arrays = {name: tensor.detach().cpu().numpy() for name, tensor in feeds.items()}
    options = runtime.SessionOptions()
    options.log_severity_level = 3
    # As written: optimised, a product with packed weights is computed in int8, and rounds what it reads.
    options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
    results = [
        runtime.InferenceSession(model, options, providers=["CPUExecutionProvider"]).run(None, arrays)
        for model in (str(plain), exact.SerializeToString())
    ]
    check_weights(*results)


def _reader(tool: Any, names: list[str], quantisation: Quantisation, batch: int | None) -> Any:
    """The calibration samples as ONNX Runtime's tool asks for them."""

    class Reader(tool.CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.left = quantisation.batches(batch or _BATCH, full=batch is not None)

        def get_next(self) -> dict[str, np.ndarray[Any, Any]] | None:
            batch = next(self.left, None)
            if batch is None:
                return None
            return {name: t.detach().cpu().numpy() for name, t in zip(names, leaves(batch), strict=True)}

    return Reader()


def _read_in_float(graph: Any, in_float: set[str]) -> None:
    """Let kept layers read the float32 output of their producer, not its int8 copy."""
    made_by = {output: node for node in graph.node for output in node.output}
    for node in graph.node:
        if node.name not in in_float:
            continue
        for i, name in enumerate(node.input):
            back = made_by.get(name)
            producer = made_by.get(back.input[0]) if back is not None and back.op_type == "DequantizeLinear" else None
            if producer is not None and producer.op_type == "QuantizeLinear":
                node.input[i] = producer.input[0]
    used = {name for node in graph.node for name in node.input} | {output.name for output in graph.output}
    for operator in ("DequantizeLinear", "QuantizeLinear"):
        for node in [node for node in graph.node if node.op_type == operator and not used & set(node.output)]:
            graph.node.remove(node)
            used = {name for node in graph.node for name in node.input} | {output.name for output in graph.output}


def _require_nodes(layers: tuple[str, ...], node_layers: set[str]) -> None:
    if lost := [layer for layer in layers if layer not in node_layers]:
        raise ExportError(f"no node of the exported graph belongs to {', '.join(lost)}: it cannot be kept in fp32")
