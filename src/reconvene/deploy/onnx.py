"""The ``onnxruntime`` runtime: ONNX files by torch's dynamo exporter, run in ONNX Runtime on the CPU."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from reconvene._version import __version__
from reconvene.deploy.calling import (
    batch_size,
    evaluating,
    input_names,
    is_batched,
    leaves,
    named,
    noise,
    outputs_of,
)
from reconvene.deploy.runtime import Runtime, Session, imported
from reconvene.errors import ExportError, ModelError
from reconvene.structure.inputs import call

OPSET = 20
# protobuf refuses to serialise 2 GiB; what the graph itself takes is left as a margin
SINGLE_FILE_LIMIT = 2**31 - 2**26


def export_onnx(model: nn.Module, example_inputs: Any, path: Path) -> list[Path]:
    """Write ``model`` in eval mode as ONNX with a dynamic batch; weights inside the file unless they pass 2 GB.

    The same model gives the same bytes, and nothing of the machine it was exported on is in them.
    Raises ExportError, naming the operator and the module the exporter stopped at.
    """
    for package in ("onnx", "onnxscript", "onnxruntime"):
        imported(package, "onnx", "ONNX export")
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


class _TensorsOnly(nn.Module):
    """The model as a function of a flat row of tensors that returns another.

    The exporter stops at outputs that are numbers, and where it must guard keyword arguments.
    """

    def __init__(self, model: nn.Module, inputs: Any) -> None:
        super().__init__()
        self.model = model
        self.values, self.spec = pytree.tree_flatten(inputs)
        self.training = model.training

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        given = iter(tensors)
        values = [next(given) if isinstance(value, Tensor) else value for value in self.values]
        return tuple(named(call(self.model, pytree.tree_unflatten(values, self.spec)), "output").values())


def _exported(model: nn.Module, inputs: Any) -> Any:
    batch, dim = batch_size(inputs), torch.export.Dim("batch")
    shapes = tuple({0: dim} if is_batched(tensor, batch) else None for tensor in leaves(inputs))
    try:
        with _quiet():
            return torch.onnx.export(
                _TensorsOnly(model, inputs),
                tuple(leaves(inputs)),
                dynamo=True,
                opset_version=OPSET,
                dynamic_shapes={"tensors": shapes},
                verbose=False,
            )
    except (RuntimeError, ValueError, TypeError, AttributeError, AssertionError) as error:
        raise ExportError(f"{type(model).__name__} could not be exported to ONNX: {_reason(error)}") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """No log lines, warnings or prints: what goes wrong is raised, and what is raised is told."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _reason(error: BaseException) -> str:
    """First line of the innermost cause, with the operator and the module where the exporter knows them."""
    node: torch.fx.Node | None = None
    cause: BaseException = error
    link: BaseException | None = error
    while link is not None:
        cause = link
        trace = link.__traceback__
        while trace is not None:
            candidate = trace.tb_frame.f_locals.get("node")
            node = candidate if isinstance(candidate, torch.fx.Node) else node
            trace = trace.tb_next
        link = link.__cause__
    message = (str(cause).strip().splitlines() or [type(cause).__name__])[0]
    if type(cause).__name__ == "GuardOnDataDependentSymNode":
        message += ". An if or a loop in forward depends on computed values: use torch.where, or take it out"
    return message + _place(node)


def _place(node: torch.fx.Node | None) -> str:
    if node is None or node.op != "call_function":
        return ""
    scopes = list((node.meta.get("nn_module_stack") or {}).values())
    if not scopes:
        return f" (operator {node.target})"
    scope, kind = scopes[-1]
    kind = kind if isinstance(kind, str) else kind.__qualname__
    where = scope.removeprefix("model").removeprefix(".")
    return f" (operator {node.target}, in module {where or 'the model itself'}, a {kind.rsplit('.', 1)[-1]})"


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
        """Keyword inputs go by name, positional ones in order."""
        tensors = named(example_inputs, "input")
        if not isinstance(example_inputs, Mapping) and len(tensors) == len(self.inputs):
            tensors = dict(zip(self.inputs, tensors.values(), strict=True))
        if set(tensors) != set(self.inputs):
            raise ModelError(f"the ONNX model takes {self.inputs}, but was given {list(tensors)}")
        return {name: tensor.detach().cpu().numpy() for name, tensor in tensors.items()}


def _ort_errors() -> tuple[type[Exception], ...]:
    """What ONNX Runtime raises: its own family has no common base but Exception."""
    state = imported("onnxruntime.capi.onnxruntime_pybind11_state", "onnx", "running an ONNX file")
    own = tuple(kind for kind in vars(state).values() if isinstance(kind, type) and issubclass(kind, Exception))
    return (*own, RuntimeError, ValueError)


@contextmanager
def open_onnx(model: nn.Module | Path, threads: int) -> Iterator[Session]:
    """Load an ONNX file with so many threads, on the calling thread where it is one."""
    if isinstance(model, nn.Module):
        raise ModelError("ONNX Runtime runs files: export the module first")
    if not model.is_file():
        raise ModelError(f"there is no file {model}")
    yield OnnxSession(model, threads)


def _versions() -> dict[str, str]:
    packages = ("onnx", "onnxscript", "onnxruntime")
    return {name: str(imported(name, "onnx", "ONNX").__version__) for name in packages}


ONNX = Runtime("onnxruntime", "onnx", ".onnx", export_onnx, open_onnx, _versions)
