"""The ``executorch`` runtime: ``.pte`` files for phones and small boards, computed by XNNPACK where it can."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from reconvene.deploy.batch_of_one import SingleSession, static_batch
from reconvene.deploy.model_io import batch_size, in_inference, leaves
from reconvene.deploy.options import STATIC, FileOptions
from reconvene.deploy.pt2e import quantised_program, xnnpack_quantiser
from reconvene.deploy.quantisation import Quantisation
from reconvene.deploy.runtimes.base import Runtime, Session, Written, file_of, imported
from reconvene.deploy.runtimes.executorch.memory import plan_executorch_memory
from reconvene.deploy.tracing import exporting, one_sample, said, traced
from reconvene.devices.memory import ActivationPolicy
from reconvene.errors import ModelError
from reconvene.structure.inputs import with_usual_strides

_EXTRA = "executorch"


def export_executorch(model: nn.Module, example_inputs: Any, path: Path, options: FileOptions) -> Written:
    """Write ``model`` in eval mode as ``.pte``: memory is planned ahead for one batch, by default of one.

    Raises ExportError, naming the operator and the module the exporter stopped at.
    """
    sample, batch = _sample(example_inputs, options)
    program = traced(model, sample, "ExecuTorch", half=options.half)
    return Written((_lowered(model, program, path),), batch)


def quantize_executorch(
    model: nn.Module, example_inputs: Any, path: Path, quantisation: Quantisation, options: FileOptions
) -> Written:
    """The same in int8: XNNPACK's symmetric weights per channel, static activations, calibrated or learned."""
    sample, batch = _sample(example_inputs, options)
    program = quantised_program(
        model,
        sample,
        xnnpack_quantiser(training=False),
        quantisation,
        extra=_EXTRA,
        file_format="ExecuTorch",
        batch=batch,
    )
    with exporting(model, "ExecuTorch"), in_inference(model):
        again = torch.export.export(program, tuple(leaves(sample)))
    return Written((_lowered(model, again, path),), batch)


def _sample(example_inputs: Any, options: FileOptions) -> tuple[Any, int]:
    batch = batch_size(example_inputs) if options.batch == STATIC else 1
    return one_sample(example_inputs, batch), batch


def _lowered(model: nn.Module, program: torch.export.ExportedProgram, path: Path) -> Path:
    exir = imported("executorch.exir", _EXTRA, "ExecuTorch export")
    xnnpack = imported("executorch.backends.xnnpack.partition.xnnpack_partitioner", _EXTRA, "ExecuTorch export")
    violation = imported("executorch.exir.verification.verifier", _EXTRA, "ExecuTorch export").SpecViolationError
    with exporting(model, "ExecuTorch", violation), said():
        edge = exir.to_edge_transform_and_lower(program, partitioner=[xnnpack.XnnpackPartitioner()])
        path.write_bytes(edge.to_executorch().buffer)
    return path


class ExecutorchSession(SingleSession):
    """A ``.pte`` file loaded by ExecuTorch's own runtime."""

    def __init__(self, path: Path) -> None:
        runtime = imported("executorch.runtime", _EXTRA, "running a .pte file").Runtime.get()
        with said() as text:
            try:
                # The method lives in the program's memory.
                self.program = runtime.load_program(path)
                self.method = self.program.load_method("forward")
            except RuntimeError as error:
                raise ModelError(f"ExecuTorch cannot load {path.name}: {error}. {_last(text())}") from error
        meta = self.method.metadata
        shapes = [tuple(meta.input_tensor_meta(i).sizes()) for i in range(meta.num_inputs())]
        super().__init__("ExecuTorch", shapes, static_batch(shapes) or 1)

    def prepare(self, tensors: list[Tensor]) -> list[Tensor]:
        """See SingleSession."""
        return [with_usual_strides(tensor) for tensor in tensors]

    def once(self, prepared: list[Tensor]) -> list[Tensor]:
        """See SingleSession."""
        return [value for value in self.method.execute(prepared) if isinstance(value, Tensor)]

    def bind(self, example_inputs: Any) -> Callable[[], object]:
        """See Session. Run once before it is timed: only ``run`` catches what ExecuTorch says of a failure."""
        self.run(example_inputs)
        return super().bind(example_inputs)

    def run(self, example_inputs: Any) -> dict[str, Tensor]:
        """See Session. The operator that fails is only named in what ExecuTorch logs."""
        with said() as text:
            try:
                return super().run(example_inputs)
            except RuntimeError as error:
                raise ModelError(_failure(text()) or f"ExecuTorch stops: {error}. {_last(text())}") from error


def _failure(text: str) -> str:
    """The operator at which ExecuTorch stopped, with the check that failed; empty where the log names none."""
    operator = re.search(r"in operator ([\w.]+(?:::[\w.]+)*)", text)
    if operator is None:
        return ""
    check = re.search(r"Check failed [^:]*: *([^\n]*\S)", text)
    why = f": {check[1]}" if check is not None else ""
    return f"ExecuTorch has the operator {operator[1]}, but cannot run it on what it is given here{why}"


def _last(text: str) -> str:
    """What ExecuTorch logged last, such as the operator it does not have."""
    lines = [line for line in text.splitlines() if "cpuinfo" not in line and line.strip()]
    return "; ".join(lines[-3:])


@contextmanager
def open_executorch(model: nn.Module | Path, threads: int) -> Iterator[Session]:
    """Load a file with so many threads (a setting of the whole process), on the calling thread where it is one."""
    path = file_of(model, "ExecuTorch")
    pool = imported("executorch.extension.pybindings.portable_lib", _EXTRA, "running a .pte file")
    with said():
        pool._unsafe_reset_threadpool(threads)  # its only way to set a number of threads
    yield ExecutorchSession(path)


EXECUTORCH = Runtime(
    "executorch",
    "executorch",
    ".pte",
    export_executorch,
    quantize_executorch,
    open_executorch,
    extra=_EXTRA,
    to_run={"executorch": "1.5"},
    to_export={"torchao": "0.18"},
    takes=frozenset({"static_batch", "fp16", "state"}),
    takes_ranges=True,
    plan_memory=plan_executorch_memory,
    # Its portable operators hold float32 as PyTorch does.
    holds={"int8": ActivationPolicy(item=1, outside=4, own_inputs=True, adds=False, in_place=False)},
)
