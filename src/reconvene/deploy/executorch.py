"""The ``executorch`` runtime: ``.pte`` files for phones and small boards, computed by XNNPACK where it can."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from reconvene.deploy.calling import evaluating, leaves
from reconvene.deploy.pt2e import quantised_program, xnnpack_quantiser
from reconvene.deploy.quantisation import Quantisation
from reconvene.deploy.runtime import Runtime, Session, file_of, imported
from reconvene.deploy.single import SingleSession
from reconvene.deploy.tracing import exporting, one_sample, plain, said, traced
from reconvene.errors import ModelError

EXTRA = "executorch"


def export_executorch(model: nn.Module, example_inputs: Any, path: Path) -> list[Path]:
    """Write ``model`` in eval mode as ``.pte`` in float32, for a batch of one: memory is planned ahead for it.

    Raises ExportError, naming the operator and the module the exporter stopped at.
    """
    return _lowered(model, traced(model, one_sample(example_inputs), "ExecuTorch"), path)


def quantize_executorch(model: nn.Module, example_inputs: Any, path: Path, quantisation: Quantisation) -> list[Path]:
    """The same in int8: XNNPACK's symmetric weights per channel, static activations, calibrated or learned."""
    program = quantised_program(
        model,
        example_inputs,
        xnnpack_quantiser(training=False),
        quantisation,
        extra=EXTRA,
        file_format="ExecuTorch",
    )
    with exporting(model, "ExecuTorch"), evaluating(model):
        again = torch.export.export(program, tuple(leaves(one_sample(example_inputs))))
    return _lowered(model, again, path)


def _lowered(model: nn.Module, program: torch.export.ExportedProgram, path: Path) -> list[Path]:
    exir = imported("executorch.exir", EXTRA, "ExecuTorch export")
    xnnpack = imported("executorch.backends.xnnpack.partition.xnnpack_partitioner", EXTRA, "ExecuTorch export")
    violation = imported("executorch.exir.verification.verifier", EXTRA, "ExecuTorch export").SpecViolationError
    with exporting(model, "ExecuTorch", violation), said():
        edge = exir.to_edge_transform_and_lower(program, partitioner=[xnnpack.XnnpackPartitioner()])
        path.write_bytes(edge.to_executorch().buffer)
    return [path]


class ExecutorchSession(SingleSession):
    """A ``.pte`` file loaded by ExecuTorch's own runtime."""

    def __init__(self, path: Path) -> None:
        runtime = imported("executorch.runtime", EXTRA, "running a .pte file").Runtime.get()
        with said() as text:
            try:
                # The method lives in the program's memory.
                self.program = runtime.load_program(path)
                self.method = self.program.load_method("forward")
            except RuntimeError as error:
                raise ModelError(f"ExecuTorch cannot load {path.name}: {error}. {_last(text())}") from error
        meta = self.method.metadata
        super().__init__("ExecuTorch", [tuple(meta.input_tensor_meta(i).sizes()) for i in range(meta.num_inputs())])

    def prepare(self, tensors: list[Tensor]) -> list[Tensor]:
        """See SingleSession."""
        return [plain(tensor) for tensor in tensors]

    def once(self, prepared: list[Tensor]) -> list[Tensor]:
        """See SingleSession."""
        return [value for value in self.method.execute(prepared) if isinstance(value, Tensor)]


def _last(text: str) -> str:
    """What ExecuTorch logged last, such as the operator it does not have."""
    lines = [line for line in text.splitlines() if "cpuinfo" not in line and line.strip()]
    return "; ".join(lines[-3:])


@contextmanager
def open_executorch(model: nn.Module | Path, threads: int) -> Iterator[Session]:
    """Load a file with so many threads (a setting of the whole process), on the calling thread where it is one."""
    path = file_of(model, "ExecuTorch")
    pool = imported("executorch.extension.pybindings.portable_lib", EXTRA, "running a .pte file")
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
    extra=EXTRA,
    to_run={"executorch": "1.5"},
    to_export={"torchao": "0.18"},
    one_by_one=True,
    takes_ranges=True,
)
