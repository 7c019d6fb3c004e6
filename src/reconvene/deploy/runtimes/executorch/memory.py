"""Memory for activations as ExecuTorch writes it into a program."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from reconvene.deploy.model_io import in_inference, leaves
from reconvene.deploy.pt2e import quantised_program
from reconvene.deploy.quantisation import Quantisation, stand_in
from reconvene.deploy.runtimes.base import Runtime, imported
from reconvene.deploy.tracing import exporting, one_sample, traced
from reconvene.structure.copies import copy_model
from reconvene.structure.inputs import map_tensors

EXTRA, CORTEX_M = "executorch", "cortex-m"


def plan_executorch_memory(runtime: Runtime, model: nn.Module, inputs: Any, precision: str) -> int:
    """Bytes of the buffers that a program of ExecuTorch declares. Raises MissingExtraError, ExportError."""
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
        last = copy_model(model).to(memory_format=torch.channels_last)
        sample = map_tensors(_channels_last, one_sample(inputs))
    noise = Quantisation(map_tensors(_channels_last, stand_in(inputs).samples))
    graph = quantised_program(last, sample, quantizer, noise, extra=EXTRA, file_format="ExecuTorch", guards=False)
    with exporting(model, "ExecuTorch"), in_inference(last):
        program = torch.export.export(graph, tuple(leaves(sample)))
        edge = exir.to_edge(program, compile_config=config.cortex_m_edge_compile_config())
        cpu = target.CortexMTargetConfig(cpu=target.CortexM.M55)
        manager = passes(edge.exported_program(), passes.pass_list, target_config=cpu)
        edge._edge_programs["forward"] = manager.transform()  # as the backend's own tools do
        return edge.to_executorch()


def _channels_last(tensor: Tensor) -> Tensor:
    return tensor.to(memory_format=torch.channels_last) if tensor.ndim == 4 else tensor
