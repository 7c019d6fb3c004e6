"""Memory for activations as runtimes plan it: what ExecuTorch writes into a file, what ONNX Runtime takes in a run."""

from __future__ import annotations

import copy
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from reconvene.deploy import onnx_memory
from reconvene.deploy.executorch import EXTRA
from reconvene.deploy.model_io import by_name, evaluating, input_names, leaves, own_inputs
from reconvene.deploy.pt2e import quantised_program
from reconvene.deploy.quantisation import PRECISIONS, Quantisation, stand_in
from reconvene.deploy.registry import format_named
from reconvene.deploy.runtime import imported
from reconvene.deploy.tracing import exporting, one_sample, traced
from reconvene.deploy.writing import write
from reconvene.errors import ExportError, UnknownNameError
from reconvene.structure.inputs import map_tensors


def planned_memory(model: nn.Module, example_inputs: Any, *, plan: str, precision: str = "fp32") -> int:
    """Bytes for the activations of one inference on the example inputs, weights left out, as a runtime plans them.

    ``executorch`` reads them off the program, for a batch of one: ``non_const_buffer_sizes``, inputs and outputs
    included, of its own portable operators in float32, and of those of its Cortex-M backend in int8. ``onnx`` runs
    the model in ONNX Runtime, in a process of its own, and adds up what it asks its arena for, outputs included and
    inputs, which belong to the caller, not. int8 is calibrated on noise: no plan depends on values.

    Raises UnknownNameError, MissingExtraError, ModelError, ExportError.
    """
    if plan not in PLANS:
        raise UnknownNameError("plan of memory", plan, PLANS)
    if precision not in PRECISIONS:
        raise UnknownNameError("precision", precision, PRECISIONS)
    return PLANS[plan](model, own_inputs(model, example_inputs), precision)


def _onnx(model: nn.Module, inputs: Any, precision: str) -> int:
    runtime = format_named("onnx")
    runtime.require(exporting=True)
    settings = stand_in(inputs) if precision == "int8" else None
    with tempfile.TemporaryDirectory(prefix="reconvene-memory-") as folder:
        path = write(runtime, model, inputs, Path(folder) / "model.onnx", settings)[0]
        feeds = by_name(inputs, input_names(model, inputs), "ONNX")
        np.savez(Path(folder) / "inputs.npz", *(tensor.numpy() for tensor in feeds.values()))
        command = [sys.executable, onnx_memory.__file__, str(path), str(Path(folder) / "inputs.npz")]
        process = subprocess.run(command, capture_output=True, text=True)
    if process.returncode or not process.stdout.strip().isdigit():
        why = (process.stderr.strip().splitlines() or [f"it ended with {process.returncode}"])[-1]
        raise ExportError(f"ONNX Runtime does not tell what memory {type(model).__name__} takes: {why}")
    return int(process.stdout)


def _executorch(model: nn.Module, inputs: Any, precision: str) -> int:
    exir = imported("executorch.exir", EXTRA, "ExecuTorch's plan of memory")
    if precision == "fp32":
        program = traced(model, one_sample(inputs), "ExecuTorch")
        with exporting(model, "ExecuTorch"):
            planned = exir.to_edge(program).to_executorch()
    else:
        planned = _on_cortex_m(model, inputs, exir)
    return sum(planned.executorch_program.execution_plan[0].non_const_buffer_sizes)


def _on_cortex_m(model: nn.Module, inputs: Any, exir: Any) -> Any:
    """The program as ExecuTorch's Cortex-M backend lowers it: int8 from end to end, channels last."""
    backend, purpose = "executorch.backends.cortex_m", "the plan of a microcontroller"
    config = imported(f"{backend}.edge_compile_config", CORTEX_M, purpose)
    passes = imported(f"{backend}.passes.cortex_m_pass_manager", CORTEX_M, purpose).CortexMPassManager
    target = imported(f"{backend}.target_config", CORTEX_M, purpose)
    quantizer = imported(f"{backend}.quantizer.quantizer", CORTEX_M, purpose).CortexMQuantizer()
    with exporting(model, "ExecuTorch"):
        last = copy.deepcopy(model).to(memory_format=torch.channels_last)
        sample = map_tensors(_channels_last, one_sample(inputs))
    noise = Quantisation(map_tensors(_channels_last, stand_in(inputs).samples))
    graph = quantised_program(last, sample, quantizer, noise, extra=EXTRA, file_format="ExecuTorch", guards=False)
    with exporting(model, "ExecuTorch"), evaluating(last):
        program = torch.export.export(graph, tuple(leaves(sample)))
        edge = exir.to_edge(program, compile_config=config.cortex_m_edge_compile_config())
        cpu = target.CortexMTargetConfig(cpu=target.CortexM.M55)
        manager = passes(edge.exported_program(), passes.pass_list, target_config=cpu)
        edge._edge_programs["forward"] = manager.transform()  # as the backend's own tools do
        return edge.to_executorch()


def _channels_last(tensor: Tensor) -> Tensor:
    return tensor.to(memory_format=torch.channels_last) if tensor.ndim == 4 else tensor


PLANS: dict[str, Callable[[nn.Module, Any, str], int]] = {"executorch": _executorch, "onnx": _onnx}
"""Whose plan of memory can be looked at."""
CORTEX_M = "cortex-m"
