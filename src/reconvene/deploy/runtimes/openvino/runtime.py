"""The ``openvino`` runtime: OpenVINO IR made from our ONNX file, int8 by NNCF, run on the CPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from reconvene.deploy.batch_of_one import joined, pieces, static_batch
from reconvene.deploy.model_io import by_name, input_names, leaves
from reconvene.deploy.options import FileOptions
from reconvene.deploy.packed_rows import channels_below
from reconvene.deploy.planned import PackedWeight
from reconvene.deploy.quantisation import Quantisation, within
from reconvene.deploy.runtimes.base import OnDevice, Runtime, Session, Written, file_of, imported, our_program
from reconvene.deploy.runtimes.onnx.runtime import export_onnx
from reconvene.deploy.runtimes.openvino.packed import (
    LAYERS,
    NARROW,
    check_packed,
    fold_norms,
    pack_weights,
    source,
    weight_readers,
)
from reconvene.deploy.tracing import exporting
from reconvene.errors import ExportError, ModelError
from reconvene.utils.numbers import plural


def export_openvino(model: nn.Module, example_inputs: Any, path: Path, options: FileOptions) -> Written:
    """Write ``model`` in eval mode as OpenVINO IR (``.xml`` beside ``.bin``); the batch is as in ``export_onnx``.

    In float16 it is the weights that are halves, as OpenVINO's own converter has it: every device computes in the
    precision it is best at. Raises ExportError, naming the operator that OpenVINO lacks.
    """
    ir, plain = _converted(model, example_inputs, path, replace(options, half=False))
    return replace(plain, files=_write(ir, path, halves=options.half))


def quantize_openvino(
    model: nn.Module, example_inputs: Any, path: Path, quantisation: Quantisation, options: FileOptions
) -> Written:
    """The same in int8 by NNCF: weights per channel, activations asymmetric where that helps (its ``mixed`` preset).

    Ranges are the smallest and largest values seen: NNCF's own choice, the mean of every sample's extremes, clips
    (16 dB instead of 35 on a trained ResNet-20).
    """
    nncf = imported("nncf", "openvino", "int8 OpenVINO")
    ranges = imported("nncf.quantization.range_estimator", "openvino", "int8 OpenVINO").RangeEstimatorParametersSet
    ir, plain = _converted(model, example_inputs, path, options)
    packed = quantisation.packed_in_int8
    if packed:
        fold_norms(ir)
    _number(ir)  # NNCF names what it puts behind an operation after it
    original, readers = (ir.clone(), weight_readers(ir, packed)) if packed else (ir, {})
    samples = list(quantisation.batches(plain.batch or 1, full=True))
    names = input_names(model, example_inputs)

    def feed(batch: Any) -> dict[str, np.ndarray[Any, Any]]:
        return {name: tensor.detach().cpu().numpy() for name, tensor in zip(names, leaves(batch), strict=True)}

    in_float: list[str] = []
    with exporting(model, "int8 OpenVINO"):
        small = nncf.quantize(
            ir,
            nncf.Dataset(samples, feed),
            preset=nncf.QuantizationPreset.MIXED,
            target_device=nncf.TargetDevice.CPU,
            subset_size=len(samples),
            advanced_parameters=nncf.AdvancedQuantizationParameters(
                activations_range_estimator_params=ranges.MINMAX,
                # it makes up for rounded weights, and those of a plan are whole numbers already
                disable_bias_correction=bool(packed),
            ),
            ignored_scope=nncf.IgnoredScope(names=_nodes(ir, quantisation.keep_fp32)),
        )
        if packed:
            in_float = pack_weights(small, readers, packed)
            check_packed(original, small, readers, feed(samples[0]))
    notes = (*plain.notes, *_stored_wider(packed), *_in_float(in_float))
    return replace(plain, files=_write(small, path), notes=notes)


def _stored_wider(packed: Mapping[str, PackedWeight]) -> list[str]:
    """What a file of OpenVINO holds in more bits than its plan says."""
    narrow = channels_below(packed, NARROW)
    return [f"{narrow} channels of 2 bits are stored in 4: OpenVINO has none of 2 that it computes in int8"] * bool(
        narrow
    )


def _in_float(weights: list[str]) -> list[str]:
    """Says which layers compute in float32, and what would keep them in int8."""
    if not weights:
        return []
    return [
        f"{plural(len(weights), 'layer')} with channels of 8 bits ({weights[0]}) in float32: on this processor, x86 "
        "without VNNI, int8 sums of them overflow in OpenVINO. A file written where VNNI is, or a plan with "
        "bits=(0, 2, 4), has them in int8"
    ]


def _converted(model: nn.Module, example_inputs: Any, path: Path, options: FileOptions) -> tuple[Any, Written]:
    """The IR, and what is to be known of the ONNX file that it was made from."""
    openvino = imported("openvino", "openvino", "OpenVINO export")
    plain = export_onnx(model, example_inputs, path.with_name(f"{path.stem}.onnx"), options)
    try:
        with exporting(model, "OpenVINO"):
            return openvino.Core().read_model(plain.files[0]).clone(), plain
    finally:
        for file in plain.files:
            file.unlink()


def _nodes(ir: Any, layers: tuple[str, ...]) -> list[str]:
    """Names of the operations of these layers. The node names are those of our ONNX file: ``layer/Conv``."""
    layer_of_node: dict[str, str] = {}
    for node in ir.get_ops():
        layer = node.get_friendly_name().split("/")[0]
        if node.get_type_name() not in LAYERS:
            continue
        # A node that makes an output is called as the output is; its weight still has the layer's name.
        weights = [source(node, i) for i in range(1, node.get_input_size())]
        for candidate in (layer, *(weight.removesuffix(".weight") for weight in weights)):
            if within(candidate, layers):
                layer_of_node[node.get_friendly_name()] = candidate
    if lost := [layer for layer in layers if layer not in layer_of_node.values()]:
        raise ExportError(f"no operation of the OpenVINO graph belongs to {', '.join(lost)}: it cannot stay in fp32")
    return list(layer_of_node)


def _write(ir: Any, path: Path, *, halves: bool = False) -> tuple[Path, Path]:
    openvino = imported("openvino", "openvino", "OpenVINO export")
    _number(ir)
    openvino.save_model(ir, path, compress_to_fp16=halves)
    return path, path.with_suffix(".bin")


def _number(ir: Any) -> None:
    """Number what has no name of its own from the beginning: OpenVINO counts on for as long as a process lives."""
    for number, node in enumerate(ir.get_ordered_ops()):
        kind, _, count = node.get_friendly_name().rpartition("_")
        own = node.get_type_name()  # a constant may have the name of what was folded into it
        if count.isdigit() and (kind == own or (own == "Constant" and kind.isalpha())):
            node.set_friendly_name(f"{own}_{number}")


class OpenvinoSession:
    """An IR compiled for the CPU, computing in float32 wherever the file does."""

    def __init__(self, path: Path, threads: int) -> None:
        openvino = imported("openvino", "openvino", "running an OpenVINO IR")
        settings = {
            # by default bfloat16 is taken for float32 where the processor has it
            "INFERENCE_PRECISION_HINT": "f32",
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            "ENABLE_CPU_PINNING": False,
        }
        try:
            core = openvino.Core()
            file = core.read_model(path)
            self.model = core.compile_model(file, "CPU", settings)
        except RuntimeError as error:
            raise ModelError(f"OpenVINO cannot load {path.name}: {_first(error)}") from error
        self.request = self.model.create_infer_request()
        # of the file: where compiling takes an operation out, a tensor has the names of both sides of it
        self.inputs = [entry.get_any_name() for entry in file.inputs]
        self.outputs = [entry.get_any_name() for entry in file.outputs]
        self.batch = static_batch(
            [
                [size.get_length() if size.is_static else None for size in entry.get_partial_shape()]
                for entry in self.model.inputs
            ]
        )

    def bind(self, example_inputs: Any) -> Callable[[], object]:
        """See Session."""
        feeds = [self._feeds(piece) for piece in pieces(example_inputs, self.batch, "OpenVINO")]
        if len(feeds) == 1:
            self.request.set_tensors(feeds[0])
            return lambda: self.request.infer()
        return lambda: [self.request.infer(feed) for feed in feeds]

    def run(self, example_inputs: Any) -> dict[str, Tensor]:
        """See Session."""
        return joined([self._once(piece) for piece in pieces(example_inputs, self.batch, "OpenVINO")])

    def _once(self, example_inputs: Any) -> dict[str, Tensor]:
        feeds = self._feeds(example_inputs)
        try:
            self.request.set_tensors(feeds)
            self.request.infer()
        except RuntimeError as error:
            shapes = {name: tuple(value.shape) for name, value in feeds.items()}
            raise ModelError(f"OpenVINO does not run the model on {shapes}: {_first(error)}") from error
        values = [self.request.get_output_tensor(i).data.copy() for i in range(len(self.outputs))]
        return {name: torch.from_numpy(value) for name, value in zip(self.outputs, values, strict=True)}

    def _feeds(self, example_inputs: Any) -> dict[str, Any]:
        openvino = imported("openvino", "openvino", "running an OpenVINO IR")
        tensors = by_name(example_inputs, self.inputs, "OpenVINO")
        return {name: openvino.Tensor(tensor.numpy()) for name, tensor in tensors.items()}


def _first(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return next((line for line in reversed(lines) if not line.startswith("Exception from")), type(error).__name__)


@contextmanager
def open_openvino(model: nn.Module | Path, threads: int) -> Iterator[Session]:
    """Load an IR with so many threads, on the calling thread where it is one."""
    yield OpenvinoSession(file_of(model, "OpenVINO"), threads)


OPENVINO = Runtime(
    "openvino",
    "openvino",
    ".xml",
    export_openvino,
    quantize_openvino,
    open_openvino,
    extra="openvino",
    to_run={"openvino": "2026.4"},
    to_export={"nncf": "3.4", "onnx": "1.19", "onnxscript": "0.6"},
    takes=frozenset({"free_batch", "static_batch", "dynamic_axes", "fp16", "packed", "state"}),
    on_device=OnDevice("openvino", our_program("openvino")),
)
