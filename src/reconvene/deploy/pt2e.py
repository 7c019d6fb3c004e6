"""Quantisation of a traced program by torchao's PT2E, which ExecuTorch and LiteRT share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from reconvene.deploy.model_io import in_inference, leaves
from reconvene.deploy.quantisation import Quantisation, within
from reconvene.deploy.runtimes.base import imported
from reconvene.deploy.tracing import exporting, in_order, module_of, one_sample, traced
from reconvene.errors import ExportError
from reconvene.quantiser import to_steps
from reconvene.quantiser.activations import Range

KEY = "quantization_annotation"
"""Where a quantiser leaves its wishes on a node."""
LABEL = "reconvene_label"
LEAST_SCALE = 2**-12
"""XNNPACK's."""
WEIGHT_LIMIT = 127
"""Integers that weights are rounded to go from minus this to this."""


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
    batch: int = 1,
) -> torch.fx.GraphModule:
    """``model`` with quantise and dequantise operators, calibrated on every sample; layers that are kept have none.

    ``quantiser`` decides what is quantised and how; ``fold_weights`` stores weights as int8, ``guards``
    keeps the call that checks shapes; it is for ``batch`` samples. Raises ExportError.
    """
    imported("torchao", extra, f"int8 {file_format}")
    pt2e = imported("torchao.quantization.pt2e.quantize_pt2e", extra, f"int8 {file_format}")
    sample = one_sample(inputs, batch)
    program = traced(model, sample, file_format)
    with exporting(model, file_format), in_inference(model):
        graph = labelled(program.module(check_guards=guards))
        try:
            prepared = pt2e.prepare_pt2e(graph, sparing(quantiser, quantisation.keep_fp32))
        except AssertionError as error:
            raise ExportError(
                f"{type(model).__name__} cannot be quantised for {file_format}: torchao's quantiser stops at "
                f"{str(error).splitlines()[0]}. Export it in float32, or in int8 to another format"
            ) from error
        if quantisation.learned is not None:
            _fix(prepared, quantisation.learned)
        for samples in quantisation.batches(batch, full=True):
            prepared(*leaves(in_order(samples)))
            if quantisation.learned is not None:
                break  # weights are to be seen once, and nothing else is to be learned
        converted: torch.fx.GraphModule = pt2e.convert_pt2e(prepared, fold_quantize=fold_weights)
    return converted


def xnnpack_settings(*, training: bool) -> Any:
    """XNNPACK's int8: symmetric weights per channel, static activations per tensor.

    For training ranges of activations are moving averages, those of weights what they are at the moment. torchao's own
    choice for training, a fused operator, leaves out the least scale that XNNPACK allows.
    """
    quantizer = imported("executorch.backends.xnnpack.quantizer.xnnpack_quantizer", "executorch", "int8 ExecuTorch")
    settings = quantizer.get_symmetric_quantization_config(
        is_per_channel=True, is_qat=training, weight_qmin=-WEIGHT_LIMIT, weight_qmax=WEIGHT_LIMIT
    )
    if not training:
        return settings
    fake = _rounding()
    observers = imported("torchao.quantization.pt2e.observer", "executorch", "quantisation-aware training")
    activation_range = fake.with_args(observer=observers.MovingAverageMinMaxObserver, eps=LEAST_SCALE)
    weight_range = fake.with_args(
        observer=observers.MovingAveragePerChannelMinMaxObserver, averaging_constant=1.0, eps=LEAST_SCALE
    )
    activation = replace(settings.input_activation, observer_or_fake_quant_ctr=activation_range)
    weight = replace(settings.weight, observer_or_fake_quant_ctr=weight_range)
    return replace(settings, input_activation=activation, output_activation=activation, weight=weight)


def _rounding() -> Any:
    """A module of torchao that rounds a tensor in training, with the arithmetic of ``reconvene.quantiser.steps``."""
    base: Any = imported(
        "torchao.quantization.pt2e.fake_quantize", "executorch", "quantisation-aware training"
    ).FakeQuantize

    class Rounding(base):  # type: ignore[misc, unused-ignore]
        def forward(self, values: Tensor) -> Tensor:
            if self.observer_enabled[0] == 1:
                self.activation_post_process(values.detach())
                scale, zero_point = self.calculate_qparams()
                self.scale.resize_(scale.shape).copy_(scale)
                self.zero_point.resize_(zero_point.shape).copy_(zero_point)
            if self.fake_quant_enabled[0] != 1:
                return values
            return to_steps(
                values, self.scale, self.zero_point, self.quant_min, self.quant_max, axis=max(self.ch_axis, 0)
            )

    return Rounding


def xnnpack_quantiser(*, training: bool) -> Any:
    """What decides which tensors XNNPACK has in int8. Raises MissingExtraError."""
    quantizer = imported("executorch.backends.xnnpack.quantizer.xnnpack_quantizer", "executorch", "int8 ExecuTorch")
    return quantizer.XNNPACKQuantizer().set_global(xnnpack_settings(training=training))


def labelled(graph: torch.fx.GraphModule) -> torch.fx.GraphModule:
    """Write on every node a name that lasts while torchao rewrites the graph; a batch norm has that of its layer."""
    inputs = [node for node in graph.graph.nodes if node.op == "placeholder"]
    for node in graph.graph.nodes:
        node.meta[LABEL] = f"input {inputs.index(node)}" if node in inputs else node.name
        source = node.args[0] if node.args else None
        if node.target == torch.ops.aten.batch_norm.default and isinstance(source, torch.fx.Node):
            node.meta[LABEL] = source.meta[LABEL]
    return graph


def ranges_of(prepared: torch.fx.GraphModule) -> Iterator[tuple[str, Any]]:
    """The label of every tensor whose range is followed, and the module that follows it."""
    modules = dict(prepared.named_modules(remove_duplicate=False))
    for node in prepared.graph.nodes:
        if node.op == "call_module" and hasattr(modules[node.target], "calculate_qparams"):
            source = node.args[0]
            yield source.meta.get(LABEL, str(source.target)), modules[node.target]


def _fix(prepared: torch.fx.GraphModule, learned: Mapping[str, Range]) -> None:
    """Take ranges of activations as they were learned. Raises ExportError where one was not."""
    observers = imported("torchao.quantization.pt2e.observer", "executorch", "int8 ExecuTorch")
    fixed: dict[int, Any] = {}
    for label, module in ranges_of(prepared):
        if module.qscheme != torch.per_tensor_affine:
            continue
        if label not in learned:
            raise ExportError(
                f"no range was learned for what {label} outputs: another version of PyTorch, torchao or the model's "
                "code trained it. Train it quantisation-aware again"
            )
        scale, zero_point = learned[label]
        low, high = module.quant_min, module.quant_max
        fixed[id(module)] = observers.FixedQParamsObserver(
            scale, zero_point, module.dtype, module.qscheme, quant_min=low, quant_max=high
        )
    for node in prepared.graph.nodes:
        if node.op == "call_module":
            module = prepared.get_submodule(node.target)
            prepared.set_submodule(node.target, fixed.get(id(module), module))


def sparing(quantiser: Any, layers: tuple[str, ...]) -> Any:
    """The same quantiser, but its wishes for these layers are forgotten. Raises ExportError for a layer not met."""
    if not layers:
        return quantiser
    annotate = quantiser.annotate

    def annotate_others(graph: torch.fx.GraphModule) -> torch.fx.GraphModule:
        annotated: torch.fx.GraphModule = annotate(graph)
        in_float = {n for n in annotated.graph.nodes if n.op == "call_function" and within(module_of(n), layers)}
        met = {module_of(node) for node in in_float}
        for node in in_float | _only_feeding(in_float, annotated.graph):
            node.meta.pop(KEY, None)
        if lost := [layer for layer in layers if layer not in met]:
            raise ExportError(f"no operator of the traced program belongs to {', '.join(lost)}: it cannot stay in fp32")
        return annotated

    quantiser.annotate = annotate_others
    return quantiser


def _only_feeding(in_float: set[torch.fx.Node], graph: torch.fx.Graph) -> set[torch.fx.Node]:
    """What computes for the kept layers alone: operators without weights, as a concatenation, and the layer before.

    Their results must not be int8 either, and a layer whose result is float32 is one that XNNPACK computes in float32.
    What others read too stays as it is.
    """
    free: set[torch.fx.Node] = set()
    before: set[torch.fx.Node] = set()
    for node in reversed(graph.nodes):
        if node.op == "call_function" and node.users and set(node.users) <= in_float | free:
            weighted = any(source.op == "get_attr" for source in node.all_input_nodes)
            (before if weighted else free).add(node)
    return (free | before) - in_float
