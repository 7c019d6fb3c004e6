"""Quantisation-aware training: torchao's PT2E puts into the training graph the rounding that XNNPACK will do."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from reconvene.deploy.model_io import in_inference
from reconvene.deploy.pt2e import labelled, ranges_of, xnnpack_quantiser
from reconvene.deploy.runtimes.base import imported
from reconvene.deploy.tracing import exporting, traced
from reconvene.errors import TrainingError
from reconvene.quantiser.activations import Range
from reconvene.training.quantising import Rounded

_EXTRA = "executorch"
WHAT = "a graph for quantisation-aware training"
BATCH_NORM = torch.ops.aten.batch_norm.default
RUNNING_VAR, TRAINING, EPS = 4, 5, 7  # arguments of aten.batch_norm


@dataclass(frozen=True)
class QuantisationAware:
    """Train with rounding (Jacob et al. 2018, arXiv 1712.05877), with straight-through gradients.

    Weights are rounded per output channel with the batch norm folded in, activations per tensor within the moving
    average of the smallest and largest values seen: int8 as ExecuTorch's XNNPACK has it.
    """

    standing: float = 0.5
    """Share of the steps after which batch norms use their running statistics, and ranges of activations stand
    still: from there on the network that is trained is the one that will run."""

    def rounded(self, network: nn.Module, images: Tensor) -> RoundedGraph:
        """See ``reconvene.training.quantising.Quantising``.

        Raises TrainingError: a share that cannot be, a network without anything that XNNPACK rounds; ExportError,
        naming the operator and the module, for a network that torch.export cannot take; MissingExtraError.
        """
        if not 0 <= self.standing <= 1:
            raise TrainingError(f"standing={self.standing} must be in [0, 1]")
        return RoundedGraph(network, images, standing=self.standing)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {"standing": self.standing}


class RoundedGraph(Rounded):
    """``network``, in PyTorch, with the roundings of an int8 runtime; see ``QuantisationAware``.

    The graph is that of eval mode: dropout and its like are off, batch norms are switched to the statistics of the
    batch by us. It computes on the parameters and buffers of ``network`` itself, which stays an ordinary module.
    """

    def __init__(self, network: nn.Module, images: Tensor, *, standing: float) -> None:
        super().__init__()
        self.network, self._standing, self._progress = network, standing, 0.0
        with in_inference(network):
            program = traced(network, images, WHAT, any_batch=True)
        with exporting(network, WHAT):
            prepared = _prepared(labelled(program.module()))
        # named_modules names one that several tensors share once
        roundings = {name: module for name, module in prepared.named_modules() if hasattr(module, "fake_quant_enabled")}
        if not roundings:
            raise TrainingError(
                f"{type(network).__name__} has no layer that XNNPACK computes in int8: there is nothing to train for"
            )
        self.rounding = nn.ModuleDict(roundings)
        self._activations = [module for module in roundings.values() if not is_weight(module)]
        # in a dict they are not registered: they compute on what network and rounding hold
        self._graphs = {flag: _with_statistics(prepared, of_the_batch=flag) for flag in (True, False)}
        self.to(images.device)

    def at(self, progress: float) -> None:
        """See Rounded."""
        self._progress = progress

    def forward(self, images: Tensor) -> Tensor:
        """What ``network`` outputs, rounded on the way."""
        moving = self.training and self._progress < self._standing
        for module in self._activations:
            module.observer_enabled.fill_(moving)
        outputs = self._graphs[moving](images)
        assert isinstance(outputs, tuple)
        result = outputs[0]
        assert isinstance(result, Tensor)
        return result

    def ranges(self) -> dict[str, Range]:
        """See Rounded. Raises TrainingError before anything was seen."""
        ranges: dict[str, Range] = {}
        for label, module in ranges_of(self._graphs[False]):
            if is_weight(module):
                continue
            if not torch.isfinite(module.activation_post_process.min_val).all():
                raise TrainingError("no range is known yet: the rounded network has not seen any image in training")
            scale, zero_point = module.calculate_qparams()
            ranges[label] = (float(scale), int(zero_point))
        return ranges


def is_weight(module: Any) -> bool:
    """Whether a rounding is of a weight: those are symmetric."""
    return module.qscheme in (torch.per_channel_symmetric, torch.per_tensor_symmetric)


def _prepared(graph: fx.GraphModule) -> fx.GraphModule:
    """``graph`` with rounding. torchao's rewriting forgets what batch norms were built with: it is put back."""
    pt2e = imported("torchao.quantization.pt2e.quantize_pt2e", _EXTRA, "quantisation-aware training")
    before: dict[str, Any] = {node.args[RUNNING_VAR].target: node.args for node in _batch_norms(graph)}
    prepared: fx.GraphModule = pt2e.prepare_qat_pt2e(graph, xnnpack_quantiser(training=True))
    for node in _batch_norms(prepared):
        variance = node.args[RUNNING_VAR]
        built_with = before[variance.target]
        node.args = (*node.args[:TRAINING], *built_with[TRAINING:])
        for user in list(variance.users):
            if user.target == torch.ops.aten.add.Tensor:  # the deviation that weights are folded by
                user.args = (variance, built_with[EPS])
    return prepared


def _with_statistics(prepared: fx.GraphModule, *, of_the_batch: bool) -> fx.GraphModule:
    """The same modules and tensors in a graph whose batch norms use, and follow, the statistics of the batch or not."""
    graph = copy.deepcopy(prepared.graph)
    for node in list(graph.nodes):
        if node.op == "call_module" and node.target == "_guards_fn":
            graph.erase_node(node)
        elif node.target == BATCH_NORM:
            node.args = (*node.args[:TRAINING], of_the_batch, *node.args[TRAINING + 1 :])
    return fx.GraphModule(prepared, graph)


def _batch_norms(graph: fx.GraphModule) -> Iterator[Any]:
    return (node for node in graph.graph.nodes if node.target == BATCH_NORM)
