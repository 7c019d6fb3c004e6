"""The ``onnxruntime`` runtime: ONNX files by torch's dynamo exporter, run in ONNX Runtime on the CPU."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from reconvene._version import __version__
from reconvene.deploy.calling import (
    batch_size,
    by_name,
    evaluating,
    input_names,
    is_batched,
    leaves,
    noise,
    outputs_of,
)
from reconvene.deploy.onnx_int8 import quantised_onnx
from reconvene.deploy.quantisation import Quantisation
from reconvene.deploy.runtime import Runtime, Session, file_of, imported
from reconvene.deploy.tracing import TensorsOnly, exporting
from reconvene.errors import ExportError, ModelError

OPSET = 20
# protobuf refuses to serialise 2 GiB; what the graph itself takes is left as a margin
SINGLE_FILE_LIMIT = 2**31 - 2**26


def export_onnx(model: nn.Module, example_inputs: Any, path: Path) -> list[Path]:
    """Write ``model`` in eval mode as ONNX with a dynamic batch; weights inside the file unless they pass 2 GB.

    The same model gives the same bytes, and nothing of the machine it was exported on is in them.
    Raises ExportError, naming the operator and the module the exporter stopped at.
    """
    # The exporter takes a batch of one for a constant, so it is shown two samples.
    inputs = noise(example_inputs, 2, seed=0) if batch_size(example_inputs) == 1 else example_inputs
    with evaluating(model):
        outputs = outputs_of(model, inputs)
        program = _exported(model, inputs)
    ir_model = program.model
    _rename(ir_model, input_names(model, inputs), list(outputs), model)
    _check_batch(ir_model.graph, inputs, model)
    _forget(ir_model)
    ir_model.graph.name = type(model).__name__
    return _write(ir_model, path)


def _exported(model: nn.Module, inputs: Any) -> Any:
    batch, dim = batch_size(inputs), torch.export.Dim("batch")
    shapes = tuple({0: dim} if is_batched(tensor, batch) else None for tensor in leaves(inputs))
    with exporting(model, "ONNX"):
        return torch.onnx.export(
            TensorsOnly(model, inputs),
            tuple(leaves(inputs)),
            dynamo=True,
            opset_version=OPSET,
            dynamic_shapes={"tensors": shapes},
            verbose=False,
        )


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
    taken = set(public.values())
    for value in (*list(graph.initializers.values()), *inner):
        name = value.name.removeprefix("model.")
        while name in taken:
            name = f"{name}_"
        taken.add(name)
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


def _check_batch(graph: Any, inputs: Any, model: nn.Module) -> None:
    """Where the model fixes its batch size the exporter says nothing and fixes it too."""
    batch = batch_size(inputs)
    for value, tensor in zip(graph.inputs, leaves(inputs), strict=True):
        if is_batched(tensor, batch) and isinstance(value.shape[0], int):
            raise ExportError(
                f"{type(model).__name__} only computes for a batch of {batch}, the one it was shown: input "
                f"{value.name!r} has no free batch dimension. Look for a reshape or view with a fixed first size"
            )


def _forget(ir_model: Any) -> None:
    """Drop stack traces and the like (1 MB on a ViT, full of paths); say who made the file."""
    for graph in (ir_model.graph, *ir_model.functions.values()):
        graph.metadata_props.clear()
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


def quantize_onnx(model: nn.Module, example_inputs: Any, path: Path, quantisation: Quantisation) -> list[Path]:
    """Write ``model`` as ONNX in int8, for any batch size. Raises ExportError."""
    plain = path.with_name(f"{path.stem}.fp32.onnx")
    files = export_onnx(model, example_inputs, plain)
    try:
        with exporting(model, "int8 ONNX"):
            return quantised_onnx(plain, path, input_names(model, example_inputs), quantisation)
    finally:
        for file in files:
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

    def bind(self, example_inputs: Any) -> Callable[[], object]:
        """See Session."""
        feeds = self._feeds(example_inputs)
        return lambda: self.session.run(None, feeds)

    def run(self, example_inputs: Any) -> dict[str, Tensor]:
        """See Session."""
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
    """What ONNX Runtime raises: its own family has no common base but Exception."""
    state = imported("onnxruntime.capi.onnxruntime_pybind11_state", "onnx", "running an ONNX file")
    own = tuple(kind for kind in vars(state).values() if isinstance(kind, type) and issubclass(kind, Exception))
    return (*own, RuntimeError, ValueError)


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
)
