"""What all exporters share: the model as a function of tensors, and what its exporter had to say in one line."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from reconvene.deploy.attention_rank import FourAxisAttention
from reconvene.deploy.box_suppression import one_suppression
from reconvene.deploy.model_io import (
    batch_size,
    in_inference,
    is_batched,
    leaves,
    named_tensors,
    outputs_of,
    take_samples,
)
from reconvene.errors import ExportError
from reconvene.structure.copies import copy_model
from reconvene.structure.inputs import call, call_on, map_tensors, with_usual_strides, writes_inputs
from reconvene.structure.state import clear_state
from reconvene.utils.module_state import forget_tables

FAILURES: tuple[type[Exception], ...] = (
    RuntimeError,
    ValueError,
    TypeError,
    AttributeError,
    AssertionError,
    KeyError,
)
"""What exporters raise for a model they cannot take; they have no family of errors."""


class TensorsOnly(nn.Module):
    """The model as a function of a flat row of tensors that returns another.

    Exporters stop at outputs that are numbers, and where they must guard keyword arguments. With ``half`` it computes
    in float16 between inputs and outputs that stay float32.
    """

    def __init__(self, model: nn.Module, inputs: Any, *, half: bool = False) -> None:
        super().__init__()
        self.model = halved(model) if half else model
        self.half_inside = half
        self.values, self.spec = pytree.tree_flatten(inputs)
        self.training = model.training
        self._call = call if _writes(model, inputs) else call_on

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Outputs in order, those that are tensors."""
        remaining = iter([_cast(t, torch.float32, torch.float16) for t in tensors] if self.half_inside else tensors)
        values = [next(remaining) if isinstance(value, Tensor) else value for value in self.values]
        clear_state(self.model)  # an exporter may run the model more than once
        with FourAxisAttention(), one_suppression():
            output = self._call(self.model, pytree.tree_unflatten(values, self.spec))
        outputs = tuple(named_tensors(output, "output").values())
        return tuple(_cast(t, torch.float16, torch.float32) for t in outputs) if self.half_inside else outputs


def _cast(tensor: Tensor, source: torch.dtype, target: torch.dtype) -> Tensor:
    return tensor.to(target) if tensor.dtype == source else tensor


def _writes(model: nn.Module, inputs: Any) -> bool:
    """Whether the model writes to its inputs: exporters give a file one more output for that, but not with a copy."""
    with in_inference(model), contextlib.suppress(*FAILURES):  # what does not run is refused where it is traced
        return writes_inputs(model, inputs)
    return False


def halved(model: nn.Module) -> nn.Module:
    """A copy of ``model`` in float16. Raises ExportError for a model that cannot be copied."""
    try:
        half = copy_model(model).half()
        forget_tables(half)  # they are in float32
        return half
    except (RuntimeError, TypeError, ValueError, AttributeError) as error:
        raise ExportError(
            f"{type(model).__name__} cannot be copied to be turned into float16: {str(error).splitlines()[0]}. Pass "
            "model.half() instead, with example inputs in float16"
        ) from error


def one_sample(example_inputs: Any, count: int = 1) -> Any:
    """The first sample (or ``count``) as a batch, in the order in which files without names take their inputs."""
    batch_size(example_inputs)
    return map_tensors(with_usual_strides, in_order(take_samples(example_inputs, 0, count)))


def in_order(example_inputs: Any) -> Any:
    """Keyword inputs by the alphabet: files of some formats know the order of inputs only, not their names."""
    return dict(sorted(example_inputs.items())) if isinstance(example_inputs, Mapping) else example_inputs


def traced(
    model: nn.Module, inputs: Any, file_format: str, *, any_batch: bool = False, half: bool = False
) -> torch.export.ExportedProgram:
    """``model`` in eval mode as a program for inputs of just this shape, or of any batch size; ``half``: in float16.

    Raises ExportError, ModelError.
    """
    with in_inference(model):  # without gradients, as it is exported: they forbid some writes into views
        outputs_of(model, inputs)
    batch = batch_size(inputs)
    free = [{0: torch.export.Dim("batch")} if is_batched(tensor, batch) else None for tensor in leaves(inputs)]
    shapes = {"tensors": tuple(free)} if any_batch else None
    with exporting(model, file_format), in_inference(model):
        wrapped = TensorsOnly(model, inputs, half=half)
        return torch.export.export(wrapped, tuple(leaves(inputs)), dynamic_shapes=shapes)


@contextmanager
def exporting(model: nn.Module, file_format: str, *exporter_errors: type[Exception]) -> Iterator[None]:
    """Silence, and ExportError that names the operator and the module, for whatever an exporter stops at.

    ``exporter_errors`` are exceptions that this exporter raises as well.
    """
    try:
        with _quiet():
            yield
    except (*FAILURES, *exporter_errors) as error:
        raise ExportError(f"{type(model).__name__} could not be exported to {file_format}: {_reason(error)}") from error


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


@contextmanager
def said() -> Iterator[Callable[[], str]]:
    """Catch what native code prints, on the process's own stdout and stderr or through Python's; the value reads it.

    ExecuTorch prints through ``sys.stderr``, which in a notebook is not the process's own.
    """
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    descriptors, printed = [os.dup(1), os.dup(2)], io.StringIO()
    with (
        tempfile.TemporaryFile() as file,
        contextlib.redirect_stdout(printed),
        contextlib.redirect_stderr(printed),
    ):
        try:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)

            def text() -> str:
                file.seek(0)
                return printed.getvalue() + file.read().decode(errors="replace")

            yield text
        finally:
            for stream in (sys.stdout, sys.stderr):
                stream.flush()
            for number, copy in enumerate(descriptors, start=1):
                os.dup2(copy, number)
                os.close(copy)


def module_of(node: torch.fx.Node) -> str:
    """Path of the module, in the user's model, whose forward made this node; empty for the model itself."""
    scopes = list((node.meta.get("nn_module_stack") or {}).values())
    path = str(scopes[-1][0]) if scopes else ""
    return path.removeprefix("L['self'].").removeprefix("model").removeprefix(".")


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
    module_type = scopes[-1][1]
    module_type = module_type if isinstance(module_type, str) else module_type.__qualname__
    module_path = module_of(node) or "the model itself"
    return f" (operator {node.target}, in module {module_path}, a {module_type.rsplit('.', 1)[-1]})"
