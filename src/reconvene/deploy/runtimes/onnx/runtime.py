"""The ``onnxruntime`` runtime: ONNX files by torch's dynamo exporter, run in ONNX Runtime on the CPU."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from reconvene._version import __version__
from reconvene.deploy.batch_of_one import joined, pieces, static_batch
from reconvene.deploy.model_io import (
    batch_size,
    by_name,
    in_inference,
    input_names,
    is_batched,
    leaves,
    noise,
    outputs_of,
    take_samples,
)
from reconvene.deploy.options import FREE, STATIC, FileOptions, free_axes
from reconvene.deploy.planned import NARROW_INPUTS, PACKED
from reconvene.deploy.quantisation import Quantisation
from reconvene.deploy.runtimes.base import OnDevice, Runtime, Session, Written, file_of, imported, our_program
from reconvene.deploy.runtimes.onnx.in_place import CopiedActivations
from reconvene.deploy.runtimes.onnx.int8 import quantised_onnx
from reconvene.deploy.runtimes.onnx.memory import plan_onnx_memory
from reconvene.deploy.sharing import form_of, written_once
from reconvene.deploy.tracing import TensorsOnly, exporting
from reconvene.devices.memory import BLOCK, ActivationPolicy
from reconvene.errors import ExportError, ModelError

_OPSET = 20
# protobuf refuses to serialise 2 GiB; what the graph itself takes is left as a margin
SINGLE_FILE_LIMIT = 2**31 - 2**26


def export_onnx(model: nn.Module, example_inputs: Any, path: Path, options: FileOptions = FileOptions()) -> Written:  # noqa: B008  # frozen
    """Write ``model`` in eval mode as ONNX; weights inside the file unless they pass 2 GB.

    The batch is free, or where the model computes for its example's batch only, that one. The same model gives the
    same bytes, and nothing of the machine it was exported on is in them.
    Raises ExportError, naming the operator and the module the exporter stopped at.
    """
    key = ("onnx", options, form_of(example_inputs))
    return written_once(model, key, path, lambda place: _converted(model, example_inputs, place, options))


def _converted(model: nn.Module, example_inputs: Any, path: Path, options: FileOptions) -> Written:
    if options.batch == STATIC:
        return _written(model, example_inputs, path, options)
    # The exporter takes a batch of one for a constant, so it is shown two samples.
    several = noise(example_inputs, 2, seed=0) if batch_size(example_inputs) == 1 else example_inputs
    try:
        return _written(model, several, path, replace(options, batch=FREE))
    except (ExportError, ModelError):
        if options.batch == FREE:
            raise
    written = _written(model, example_inputs, path, replace(options, batch=STATIC))
    size = batch_size(example_inputs)
    note = (
        f"static batch of {size}, that of the example: {type(model).__name__} does not compute for any batch (a shape "
        "that is fixed, remembered or compared)"
    )
    return replace(written, notes=(note,))


def _written(model: nn.Module, inputs: Any, path: Path, options: FileOptions) -> Written:
    with in_inference(model):
        outputs = outputs_of(model, inputs)
        program = _exported(model, inputs, options)
    ir_model = program.model
    _rename(ir_model, input_names(model, inputs), list(outputs), model)
    _check_free(ir_model.graph, inputs, list(outputs.values()), model, options)
    opset, version = options.opset or _OPSET, ir_model.opset_imports[""]
    if version != opset:
        raise ExportError(
            f"{type(model).__name__} could not be exported to ONNX of opset {opset}: the exporter left "
            f"opset {version}, since it has no such opset or cannot turn an operator back to it. Try opset=18 or "
            "newer, or leave it out"
        )
    _forget(ir_model)
    ir_model.graph.name = type(model).__name__
    return Written(tuple(_write(ir_model, path)), None if options.batch == FREE else batch_size(inputs))


def _exported(model: nn.Module, inputs: Any, options: FileOptions) -> Any:
    axes = [_free(tensor, inputs, options) for tensor in leaves(inputs)]
    dims = {name: torch.export.Dim(name) for name in dict.fromkeys(name for free in axes for name in free.values())}
    shapes = tuple({axis: dims[name] for axis, name in free.items()} or None for free in axes)
    with exporting(model, "ONNX"), CopiedActivations():
        return torch.onnx.export(
            TensorsOnly(model, inputs, half=options.half),
            tuple(leaves(inputs)),
            dynamo=True,
            opset_version=options.opset or _OPSET,
            dynamic_shapes={"tensors": shapes} if dims else None,
            verbose=False,
        )


def _free(tensor: Tensor, inputs: Any, options: FileOptions) -> dict[int, str]:
    """The axes of one input that the file leaves open, with their names."""
    batch = {0: "batch"} if options.batch == FREE and is_batched(tensor, batch_size(inputs)) else {}
    return {**batch, **free_axes(tensor, options)}


def _rename(ir_model: Any, inputs: list[str], outputs: list[str], model: nn.Module) -> None:
    """Give inputs, outputs and weights the model's own names, each name held once."""
    graph = ir_model.graph
    if len(graph.inputs) != len(inputs) or len(graph.outputs) != len(outputs):
        raise ExportError(
            f"{type(model).__name__} takes {len(inputs)} and returns {len(outputs)} tensors, but the exported graph "
            f"takes {len(graph.inputs)} and returns {len(graph.outputs)}. Do its inputs depend on each other?"
        )
    outputs = [f"output_{name}" if name in inputs else name for name in outputs]
    public = dict(zip([*graph.inputs, *graph.outputs], [*inputs, *outputs], strict=True))
    inner = [value for node in graph.all_nodes() for value in node.outputs if value not in public and value.name]
    used_names = set(public.values())
    for value in (*list(graph.initializers.values()), *inner):
        name = value.name.removeprefix("model.")
        while name in used_names:
            name = f"{name}_"
        used_names.add(name)
        value.name = name
    # last, so that no name is ever held twice
    for value, name in public.items():
        value.name = name
    counts: dict[str, int] = {}
    for node in graph.all_nodes():
        name = f"{_module_of(node)}/{node.op_type}"
        counts[name] = counts.get(name, 0) + 1
        node.name = name if counts[name] == 1 else f"{name}_{counts[name]}"


def _module_of(node: Any) -> str:
    """The module a node came from: whose weight it reads, or else in whose forward it was recorded."""
    for value in node.inputs:
        if value is not None and value.name.endswith(".weight") and value.is_initializer():
            return str(value.name.removesuffix(".weight"))
    scopes = ast.literal_eval(node.metadata_props.get("pkg.torch.onnx.name_scopes", "[]"))
    modules = [scope for scope in scopes[:-1] if scope.startswith("model.")]  # the last one is the operator
    return modules[-1].removeprefix("model.") if modules else ""


def _check_free(graph: Any, inputs: Any, outputs: list[Tensor], model: nn.Module, options: FileOptions) -> None:
    """Where the model fixes a size the exporter says nothing and fixes it too, in the input or in what is computed."""
    for value, tensor in zip(graph.inputs, leaves(inputs), strict=True):
        for axis, name in _free(tensor, inputs, options).items():
            if isinstance(value.shape[axis], int):
                raise ExportError(
                    f"{type(model).__name__} only computes for a {name} of {tensor.shape[axis]}, the one it was shown: "
                    f"input {value.name!r} has no free {name} dimension. Look for a reshape or view with a fixed size, "
                    "and for shapes that are remembered or compared"
                )
    if options.batch == FREE:
        _check_outputs(graph, inputs, outputs, model)


def _check_outputs(graph: Any, inputs: Any, outputs: list[Tensor], model: nn.Module) -> None:
    batch = batch_size(inputs)
    fixed = [
        i
        for i, (value, tensor) in enumerate(zip(graph.outputs, outputs, strict=True))
        if is_batched(tensor, batch) and value.shape is not None and isinstance(value.shape[0], int)
    ]
    if not fixed:
        return
    with in_inference(model):  # an output that grows with the batch is no table of as many rows
        larger = list(outputs_of(model, take_samples(inputs, 0, batch + 1)).values())
    for i in fixed:
        if larger[i].shape[0] != batch:
            raise ExportError(
                f"{type(model).__name__} only computes for a batch of {batch}, the one it was shown: output "
                f"{graph.outputs[i].name!r} has no free batch dimension"
            )


def _forget(ir_model: Any) -> None:
    """Drop stack traces and the like (1 MB on a ViT, full of paths); say who made the file."""
    for graph in (ir_model.graph, *ir_model.functions.values()):
        graph.metadata_props.clear()
        for value in (*graph.inputs, *graph.outputs):
            value.metadata_props.clear()
        for node in graph.all_nodes():
            node.metadata_props.clear()
            for value in node.outputs:
                value.metadata_props.clear()
    ir_model.doc_string = None
    ir_model.producer_name, ir_model.producer_version = "reconvene", __version__
    ir_model.metadata_props.clear()
    ir_model.metadata_props.update({"producer": "reconvene", "version": __version__, "torch": str(torch.__version__)})


def _write(ir_model: Any, path: Path) -> list[Path]:
    """One file, deterministic bytes; past what protobuf can hold, the weights go to a file beside it."""
    ir = imported("onnx_ir", "onnx", "ONNX export")
    weights = [value.const_value for value in ir_model.graph.initializers.values()]
    if sum(weight.nbytes for weight in weights) > SINGLE_FILE_LIMIT:
        data = path.with_name(f"{path.name}.data")
        ir.save(ir_model, path, external_data=data.name)
        return [path, data]
    proto = ir.to_proto(ir_model)
    names = {tensor.name for tensor in proto.graph.initializer}
    shapes = [info for info in proto.graph.value_info if info.name not in names]  # a weight already says its shape
    del proto.graph.value_info[:]
    proto.graph.value_info.extend(shapes)
    path.write_bytes(proto.SerializeToString(deterministic=True))
    return [path]


def quantize_onnx(
    model: nn.Module, example_inputs: Any, path: Path, quantisation: Quantisation, options: FileOptions
) -> Written:
    """Write ``model`` as ONNX in int8. Raises ExportError."""
    plain = export_onnx(model, example_inputs, path.with_name(f"{path.stem}.fp32.onnx"), options)
    try:
        with exporting(model, "int8 ONNX"):
            names = input_names(model, example_inputs)
            files = quantised_onnx(plain.files[0], path, names, quantisation, batch=plain.batch)
        return replace(plain, files=tuple(files))
    finally:
        for file in plain.files:
            file.unlink()


class OnnxSession:
    """An ONNX file in ONNX Runtime."""

    def __init__(self, path: Path, threads: int) -> None:
        ort = imported("onnxruntime", "onnx", "running an ONNX file")
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
        options.log_severity_level = 3
        try:
            self.session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except _ort_errors() as error:
            raise ModelError(f"ONNX Runtime cannot load {path.name}: {error}") from error
        self.inputs = [node.name for node in self.session.get_inputs()]
        self.outputs = [node.name for node in self.session.get_outputs()]
        self.batch = static_batch([node.shape for node in self.session.get_inputs()])

    def bind(self, example_inputs: Any) -> Callable[[], object]:
        """See Session."""
        feeds = [self._feeds(piece) for piece in pieces(example_inputs, self.batch, "ONNX")]
        if len(feeds) == 1:
            return lambda: self.session.run(None, feeds[0])
        return lambda: [self.session.run(None, feed) for feed in feeds]

    def run(self, example_inputs: Any) -> dict[str, Tensor]:
        """See Session."""
        return joined([self._once(piece) for piece in pieces(example_inputs, self.batch, "ONNX")])

    def _once(self, example_inputs: Any) -> dict[str, Tensor]:
        feeds = self._feeds(example_inputs)
        try:
            values = self.session.run(None, feeds)
        except _ort_errors() as error:
            shapes = {name: value.shape for name, value in feeds.items()}
            raise ModelError(f"ONNX Runtime does not run the model on {shapes}: {error}") from error
        return {name: torch.from_numpy(value) for name, value in zip(self.outputs, values, strict=True)}

    def _feeds(self, example_inputs: Any) -> dict[str, np.ndarray[Any, Any]]:
        return {name: tensor.numpy() for name, tensor in by_name(example_inputs, self.inputs, "ONNX").items()}


def _ort_errors() -> tuple[type[Exception], ...]:
    """The exceptions of ONNX Runtime: they have no common base but Exception."""
    state = imported("onnxruntime.capi.onnxruntime_pybind11_state", "onnx", "running an ONNX file")
    runtime_errors = tuple(
        member for member in vars(state).values() if isinstance(member, type) and issubclass(member, Exception)
    )
    return (*runtime_errors, RuntimeError, ValueError)


@contextmanager
def open_onnx(model: nn.Module | Path, threads: int) -> Iterator[Session]:
    """Load an ONNX file with so many threads, on the calling thread where it is one."""
    yield OnnxSession(file_of(model, "ONNX Runtime"), threads)


ONNX = Runtime(
    "onnxruntime",
    "onnx",
    ".onnx",
    export_onnx,
    quantize_onnx,
    open_onnx,
    extra="onnx",
    to_run={"onnxruntime": "1.23"},
    to_export={"onnx": "1.19", "onnxscript": "0.6"},
    takes=frozenset({"free_batch", "static_batch", "dynamic_axes", "opset", "fp16", PACKED, NARROW_INPUTS, "state"}),
    on_device=OnDevice("onnxruntime", our_program("onnxruntime")),
    plan_memory=plan_onnx_memory,
    holds={
        "fp32": ActivationPolicy(item=4, outside=0, own_inputs=False, adds=True, in_place=True, block=BLOCK),
        "int8": ActivationPolicy(item=1, outside=0, own_inputs=True, adds=False, in_place=False),
    },
)
