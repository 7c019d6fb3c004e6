"""What a model costs: parameters, multiply-accumulates, activation memory, file size, latency."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import Any

from torch import nn

from reconvene.artifact.tensors import encode
from reconvene.costs.model import CostModel
from reconvene.deploy.benchmark import measure_latency as time_in_runtime
from reconvene.structure import analyse
from reconvene.structure.nesting import on_model
from reconvene.utils.arguments import check_model, checked
from reconvene.utils.bar_chart import Bar, BarChart
from reconvene.utils.frames import Frame, Tabular
from reconvene.utils.progress import ProgressOption, listening, stage
from reconvene.utils.tables import Cell


@dataclass(frozen=True)
class Measurement(Tabular):
    """Costs of one model on one input shape. How each is counted: ``reconvene.costs``.

    >>> import torch
    >>> import reconvene as rc
    >>> from torch import nn
    >>> model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 8, 3))
    >>> x = torch.randn(1, 3, 16, 16)
    >>> rc.measure(model, x, latency=False).params
    1608
    """

    params: int
    macs: int
    peak_memory: int
    """Bytes of activations alive at once."""
    size: int
    """Bytes of ``model.safetensors``."""
    latency: float | None
    """Seconds of one forward pass in ONNX Runtime on one thread of this machine; ``None`` if it was not asked for."""

    def frame(self) -> Frame:
        """The table: a row a cost, in its base unit."""
        rows: list[list[Cell]] = [
            ["parameters", self.params, ""],
            ["MACs", self.macs, "of one example"],
            ["peak memory", self.peak_memory, "bytes"],
            ["file size", self.size, "bytes"],
        ]
        if self.latency is not None:
            rows.append(["latency", self.latency, "seconds, ONNX Runtime, one thread"])
        return Frame(("cost", "value", "unit"), rows)

    def plot(self, dense: Measurement) -> BarChart:
        """Each cost as a share of that of the dense network."""
        before, after = dense.to_dict(), self.to_dict()
        shares = {name: after[name] / before[name] for name in after if after[name] is not None and before[name]}
        bars = [Bar(name, share, f"{share:.1%} of dense", of=1.0) for name, share in shares.items()]
        return BarChart("costs beside the dense network", bars)

    def __str__(self) -> str:
        lines = [
            f"parameters   {self.params:,}",
            f"MACs         {self.macs:,}",
            f"peak memory  {self.peak_memory:,} bytes",
            f"file size    {self.size:,} bytes",
        ]
        if self.latency is not None:
            lines.append(f"latency      {self.latency * 1e3:.3f} ms (ONNX Runtime, one thread)")
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return dataclasses.asdict(self)

    def to_json(self) -> str:
        """``to_dict`` as JSON text."""
        return json.dumps(self.to_dict())


@checked(model=check_model)
@on_model
def measure(
    model: nn.Module, example_inputs: Any, *, latency: bool = True, progress: ProgressOption = None
) -> Measurement:
    """Measure a model, dense or pruned, on inputs of this shape.

    Args:
        model: any module; it is only read.
        example_inputs: a tensor, a tuple or list of positional arguments, or a mapping of keyword arguments.
        latency: whether to export it and time it in ONNX Runtime (some seconds, needs the ``onnx`` extra).
        progress: as for ``rc.plan``.

    Raises:
        ModelError: the model does not run on these inputs.
        MissingExtraError: latency was asked for, and ONNX Runtime is not installed.

    >>> import torch
    >>> import reconvene as rc
    >>> from torch import nn
    >>> model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 8, 3))
    >>> x = torch.randn(1, 3, 16, 16)
    >>> costs = rc.measure(model, x, latency=False)
    >>> costs.params, costs.macs, costs.peak_memory
    (1608, 250560, 25088)
    """
    with listening(progress):
        with stage("counting", summary=False):
            costs = CostModel(analyse(model, example_inputs, trial=False)).dense
            size = len(encode(model.state_dict())[0])
        seconds = None
        if latency:
            with stage("timing in ONNX Runtime", summary=False):
                seconds = time_in_runtime(model, example_inputs)
    return Measurement(int(costs["params"]), int(costs["macs"]), int(costs["peak_memory"]), size, seconds)
