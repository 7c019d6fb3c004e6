"""Quantisation of a traced program by torchao's PT2E, which ExecuTorch and LiteRT share."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from reconvene.deploy.calling import evaluating, leaves
from reconvene.deploy.quantisation import Quantisation, within
from reconvene.deploy.runtime import imported
from reconvene.deploy.tracing import exporting, in_order, module_of, one_sample, traced
from reconvene.errors import ExportError

KEY = "quantization_annotation"
"""Where a quantiser leaves its wishes on a node."""


def quantised_program(
    model: nn.Module,
    inputs: Any,
    quantiser: Any,
    quantisation: Quantisation,
    *,
    extra: str,
    file_format: str,
    fold_weights: bool = True,
) -> torch.fx.GraphModule:
    """``model`` with quantise and dequantise operators, calibrated on every sample; layers that are kept have none.

    ``quantiser`` decides what is quantised and how; ``fold_weights`` stores weights as int8. Raises ExportError.
    """
    imported("torchao", extra, f"int8 {file_format}")
    pt2e = imported("torchao.quantization.pt2e.quantize_pt2e", extra, f"int8 {file_format}")
    sample = one_sample(inputs)
    program = traced(model, sample, file_format)
    with exporting(model, file_format), evaluating(model):
        graph = program.module()
        prepared = pt2e.prepare_pt2e(graph, sparing(quantiser, quantisation.keep_fp32))
        for batch in quantisation.batches(1):
            prepared(*leaves(in_order(batch)))
        converted: torch.fx.GraphModule = pt2e.convert_pt2e(prepared, fold_quantize=fold_weights)
        _read_in_float(converted, quantisation.keep_fp32)
    return converted


def sparing(quantiser: Any, layers: tuple[str, ...]) -> Any:
    """The same quantiser, but its wishes for these layers are forgotten. Raises ExportError for a layer not met."""
    if not layers:
        return quantiser
    annotate = quantiser.annotate

    def annotate_others(graph: torch.fx.GraphModule) -> torch.fx.GraphModule:
        annotated: torch.fx.GraphModule = annotate(graph)
        met = set()
        for node in annotated.graph.nodes:
            if node.op == "call_function" and within(module_of(node), layers):
                node.meta.pop(KEY, None)
                met.add(module_of(node))
        if lost := [layer for layer in layers if layer not in met]:
            raise ExportError(f"no operator of the traced program belongs to {', '.join(lost)}: it cannot stay in fp32")
        return annotated

    quantiser.annotate = annotate_others
    return quantiser


def _read_in_float(program: torch.fx.GraphModule, layers: tuple[str, ...]) -> None:
    """Let kept layers read what their producer computed, not its int8 copy: a layer that must not lose does not."""
    for node in program.graph.nodes:
        if node.op != "call_function" or not within(module_of(node), layers) or "quantize" in node.name:
            continue
        for back in node.all_input_nodes:
            there = back.args[0] if "dequantize" in str(back.target) else None
            if isinstance(there, torch.fx.Node) and "quantize" in str(there.target):
                node.replace_input_with(back, there.args[0])
    program.graph.eliminate_dead_code()
    program.recompile()
