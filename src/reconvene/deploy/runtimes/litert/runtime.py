"""The ``litert`` runtime: ``.tflite`` files by litert-torch, run in LiteRT's interpreter with its XNNPACK kernels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from reconvene.deploy.batch_of_one import SingleSession
from reconvene.deploy.model_io import in_inference, leaves
from reconvene.deploy.options import FileOptions
from reconvene.deploy.packed_rows import channels_below
from reconvene.deploy.planned import PACKED, PackedWeight
from reconvene.deploy.pt2e import KEY, quantised_program
from reconvene.deploy.quantisation import Quantisation
from reconvene.deploy.runtimes.base import OnDevice, Runtime, Session, Written, file_of, imported, our_program
from reconvene.deploy.runtimes.litert.packed import NARROW, pack_file, plan_weights
from reconvene.deploy.tracing import TensorsOnly, exporting, one_sample, said
from reconvene.errors import ModelError, VerificationError

_EXTRA = "litert"
FIRST_PACKAGE = "litert-torch"
"""Pip must install it by itself before the extra; see pyproject.toml."""
_ATEN = torch.ops.aten
_CLIPS = {_ATEN.relu.default, _ATEN.relu_.default, _ATEN.hardtanh.default, _ATEN.hardtanh_.default, _ATEN.relu6.default}
"""Activations that become part of the operator before them."""
_JOINS = {_ATEN.add.Tensor, _ATEN.add_.Tensor, _ATEN.sub.Tensor, _ATEN.mul.Tensor, _ATEN.mul_.Tensor}
_POOLS = {_ATEN.avg_pool2d.default, _ATEN.mean.dim}
Values = np.ndarray[Any, Any]


def export_litert(model: nn.Module, example_inputs: Any, path: Path, options: FileOptions) -> Written:
    """Write ``model`` in eval mode as ``.tflite`` in float32, for a batch of one.

    Raises ExportError, naming the operator and the module the exporter stopped at.
    """
    sample = one_sample(example_inputs)
    with in_inference(model):
        return _converted(model, TensorsOnly(model, sample), sample, path)


def quantize_litert(
    model: nn.Module, example_inputs: Any, path: Path, quantisation: Quantisation, options: FileOptions
) -> Written:
    """The same in int8 by litert-torch's PT2E quantiser: weights per channel, static activations."""
    quantizer = imported("litert_torch.quantize.pt2e_quantizer", _EXTRA, "int8 LiteRT", first=FIRST_PACKAGE)
    config = imported("litert_torch.quantize.quant_config", _EXTRA, "int8 LiteRT", first=FIRST_PACKAGE)
    settings = quantizer.get_symmetric_quantization_config(is_per_channel=True, is_dynamic=False)
    int8_quantizer = quantizer.PT2EQuantizer().set_global(settings)
    _complete(int8_quantizer, settings)
    packed = quantisation.packed
    if packed:
        plan_weights(int8_quantizer, packed)
    program = quantised_program(
        model, example_inputs, int8_quantizer, quantisation, extra=_EXTRA, file_format="LiteRT", fold_weights=False
    )
    sample = one_sample(example_inputs)
    written = _converted(model, program, sample, path, quant_config=config.QuantConfig(pt2e_quantizer=int8_quantizer))
    return replace(written, notes=_packed_notes(path, packed, sample)) if packed else written


def _packed_notes(path: Path, packed: Mapping[str, PackedWeight], sample: Any) -> tuple[str, ...]:
    """Pack a file in place; what it holds in more bits than its plan says.

    Raises VerificationError where the packed file computes anything else than the one before.
    """
    # XNNPACK has no convolutions with weights of 4 bits, and LiteRT's own kernels, which compute them, round otherwise
    expected = LitertSession(path, 1, delegates=False).run(sample)
    wider = pack_file(path, packed)
    for name, values in LitertSession(path, 1, delegates=False).run(sample).items():
        if not torch.equal(values, expected[name]):
            raise VerificationError(
                f"output {name!r} of the file changes when its weights are stored in 4 bits. Please report it; "
                "quantize='int8' stores 8"
            )
    narrow = channels_below(packed, NARROW)
    notes = [f"{narrow} channels of 2 bits are stored in 4 or 8: LiteRT computes with 4 and 8"] if narrow else []
    if wider:
        notes.append(f"{wider} channels of at most 4 bits are stored in 8, as other channels of their layer need it")
    return tuple(notes)


def _complete(quantizer: Any, settings: Any) -> None:
    """Let the quantiser also see sums, products, pools and activations that it misses.

    litert-torch looks for them by the function that the model called, which newer traces do not tell. What it misses
    is computed in float32 between two conversions, which microcontroller NPUs cannot do.
    """
    annotation = imported("torchao.quantization.pt2e.quantizer", _EXTRA, "int8 LiteRT").QuantizationAnnotation
    annotate = quantizer.annotate

    def annotate_all(graph: torch.fx.GraphModule) -> torch.fx.GraphModule:
        annotated: torch.fx.GraphModule = annotate(graph)
        for node in annotated.graph.nodes:
            if node.op != "call_function" or node.target not in _JOINS | _CLIPS | _POOLS or KEY in node.meta:
                continue
            reader = next(iter(node.users)) if len(node.users) == 1 else None
            fused = reader is not None and node.target in _JOINS and reader.target in _CLIPS and KEY not in reader.meta
            inputs = {arg: settings.input_activation for arg in node.args[:2] if isinstance(arg, torch.fx.Node)}
            output = None if fused else settings.output_activation
            node.meta[KEY] = annotation(input_qspec_map=inputs, output_qspec=output, _annotated=True)
            if fused and reader is not None:
                reader.meta[KEY] = annotation(output_qspec=settings.output_activation, _annotated=True)
        return annotated

    quantizer.annotate = annotate_all


def _converted(model: nn.Module, program: nn.Module, sample: Any, path: Path, **settings: Any) -> Written:
    litert_torch = imported("litert_torch", _EXTRA, "LiteRT export", first=FIRST_PACKAGE)
    with exporting(model, "LiteRT"), said(), torch.no_grad():
        litert_torch.convert(program, tuple(leaves(sample)), strict_export=False, **settings).export(str(path))
    return Written((path,), batch=1)


class LitertSession(SingleSession):
    """A ``.tflite`` file in the interpreter. Inputs and outputs that are int8 in the file are float32 here.

    Without ``delegates`` it runs LiteRT's own kernels, none of XNNPACK's.
    """

    def __init__(self, path: Path, threads: int, *, delegates: bool = True) -> None:
        interpreter = imported("ai_edge_litert.interpreter", _EXTRA, "running a .tflite file", first=FIRST_PACKAGE)
        kinds = interpreter.OpResolverType
        kernels = kinds.AUTO if delegates else kinds.BUILTIN_WITHOUT_DEFAULT_DELEGATES
        with said():
            try:
                self.interpreter = interpreter.Interpreter(
                    str(path), num_threads=threads, experimental_op_resolver_type=kernels
                )
                self.interpreter.allocate_tensors()
            except (RuntimeError, ValueError) as error:
                raise ModelError(f"LiteRT cannot load {path.name}: {error}") from error
        # Names are args_0, args_1, ... and output_0, output_1, ...; the lists are in an order of their own.
        signature = self.interpreter.get_signature_runner()
        self.inputs = [entry for _, entry in sorted(signature.get_input_details().items(), key=_number)]
        self.outputs = [entry for _, entry in sorted(signature.get_output_details().items(), key=_number)]
        super().__init__("LiteRT", [tuple(int(size) for size in entry["shape"]) for entry in self.inputs])

    def prepare(self, tensors: list[Tensor]) -> list[Values]:
        """See SingleSession."""
        return [_to_file(tensor.numpy(), entry) for tensor, entry in zip(tensors, self.inputs, strict=True)]

    def once(self, prepared: list[Values]) -> list[Tensor]:
        """See SingleSession."""
        for entry, value in zip(self.inputs, prepared, strict=True):
            self.interpreter.set_tensor(entry["index"], value)
        self.interpreter.invoke()
        return [
            torch.from_numpy(_from_file(self.interpreter.get_tensor(entry["index"]), entry)) for entry in self.outputs
        ]


def _number(item: tuple[str, Any]) -> int:
    return int(item[0].rsplit("_", 1)[-1])


def _to_file(values: Values, entry: dict[str, Any]) -> Values:
    if entry["dtype"] != np.int8 or values.dtype == np.int8:
        return np.asarray(values, entry["dtype"], order="C")
    scale, zero = entry["quantization"]
    return np.asarray(np.clip(np.rint(values / scale) + zero, -128, 127), np.int8)


def _from_file(values: Values, entry: dict[str, Any]) -> Values:
    scale, zero = entry["quantization"]
    if entry["dtype"] != np.int8 or not scale:
        return values
    return np.asarray((values.astype(np.float32) - zero) * scale, np.float32)


@contextmanager
def open_litert(model: nn.Module | Path, threads: int) -> Iterator[Session]:
    """Load a file with so many threads, on the calling thread where it is one."""
    yield LitertSession(file_of(model, "LiteRT"), threads)


LITERT = Runtime(
    "litert",
    "litert",
    ".tflite",
    export_litert,
    quantize_litert,
    open_litert,
    extra=_EXTRA,
    to_run={"ai_edge_litert": "2.3"},
    to_export={"litert_torch": "0.10", "torchao": "0.18"},
    takes=frozenset({PACKED}),
    on_device=OnDevice("ai-edge-litert", our_program("litert")),
    first_package=FIRST_PACKAGE,
)
