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
    guards: bool = True,
) -> torch.fx.GraphModule:
    """``model`` with quantise and dequantise operators, calibrated on every sample; layers that are kept have none.

    ``quantiser`` decides what is quantised and how; ``fold_weights`` stores weights as int8, ``guards``
    keeps the call that checks shapes. Raises ExportError.
    """
    imported("torchao", extra, f"int8 {file_format}")
    pt2e = imported("torchao.quantization.pt2e.quantize_pt2e", extra, f"int8 {file_format}")
    sample = one_sample(inputs)
    program = traced(model, sample, file_format)
    with exporting(model, file_format), evaluating(model):
        graph = program.module(check_guards=guards)
        prepared = pt2e.prepare_pt2e(graph, sparing(quantiser, quantisation.keep_fp32))
        for batch in quantisation.batches(1):
            prepared(*leaves(in_order(batch)))
        converted: torch.fx.GraphModule = pt2e.convert_pt2e(prepared, fold_quantize=fold_weights)
    return converted


def sparing(quantiser: Any, layers: tuple[str, ...]) -> Any:
    """The same quantiser, but its wishes for these layers are forgotten. Raises ExportError for a layer not met."""
    if not layers:
        return quantiser
    annotate = quantiser.annotate

    def annotate_others(graph: torch.fx.GraphModule) -> torch.fx.GraphModule:
        annotated: torch.fx.GraphModule = annotate(graph)
        kept = {n for n in annotated.graph.nodes if n.op == "call_function" and within(module_of(n), layers)}
        met = {module_of(node) for node in kept}
        for node in kept | _only_feeding(kept, annotated.graph):
            node.meta.pop(KEY, None)
        if lost := [layer for layer in layers if layer not in met]:
            raise ExportError(f"no operator of the traced program belongs to {', '.join(lost)}: it cannot stay in fp32")
        return annotated

    quantiser.annotate = annotate_others
    return quantiser


def _only_feeding(kept: set[torch.fx.Node], graph: torch.fx.Graph) -> set[torch.fx.Node]:
    """What computes for the kept layers alone: operators without weights, as a concatenation, and the layer before.

    Their results must not be int8 either, and a layer whose result is float32 is one that XNNPACK computes in float32.
    What others read too stays as it is.
    """
    free: set[torch.fx.Node] = set()
    before: set[torch.fx.Node] = set()
    for node in reversed(graph.nodes):
        if node.op == "call_function" and node.users and set(node.users) <= kept | free:
            weighted = any(source.op == "get_attr" for source in node.all_input_nodes)
            (before if weighted else free).add(node)
    return (free | before) - kept
