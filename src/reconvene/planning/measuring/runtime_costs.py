"""Costs whose true value only a runtime tells: latency, the bytes of an exported file, the memory of activations."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from reconvene import devices
from reconvene.costs import COSTS, CostFunction, Network
from reconvene.costs.activation_memory import PeakMemory
from reconvene.costs.file_size import FileSize
from reconvene.deploy.benchmark import measure_latency
from reconvene.deploy.memory import planned_memory
from reconvene.deploy.model_io import own_inputs
from reconvene.deploy.quantisation import stand_in
from reconvene.deploy.runtimes.registry import format_named
from reconvene.deploy.writing import write_model
from reconvene.devices import Profile
from reconvene.devices.latency_cost import DeviceLatency
from reconvene.planning.measuring.trained_values import with_trained_values
from reconvene.structure import Structure

if TYPE_CHECKING:
    from reconvene.costs.base import Term


class MachineLatency(DeviceLatency):
    """Latency on this machine: predicted from its profile, measured by a stopwatch in ONNX Runtime."""

    measured, depends_on_values, enough, margin = True, True, 0.93, 0.98

    def __init__(self, profile: Profile) -> None:
        super().__init__(profile)
        self._watch: devices.Stopwatch | None = None

    def measure(self, model: nn.Module, example_inputs: Any) -> float:
        """Seconds of one inference, read until two calm readings agree."""
        if self._watch is None:
            threads, pace = self.profile.runtime["threads"], self.profile.pace
            self._watch = devices.Stopwatch(devices.reference(threads, pace))
        options = {"precision": self.profile.precision, "threads": self.profile.runtime["threads"]}
        return measure_latency(model, example_inputs, **options, settled=self._watch.time)

    @property
    def measured_condition(self) -> str:
        """Names the device on which the latency of a plan was measured."""
        return f"measured on {self.profile.conditions}"

    @property
    def remark(self) -> str:
        """Whether the machine was disturbed while networks were timed."""
        if self._watch is None or not self._watch.unsettled:
            return ""
        return (
            f"this machine was busy while networks were timed: {self._watch.unsettled} times have no second, calm "
            "reading. If it is always this slow, measure its profile again"
        )

    def close(self) -> None:
        """Remove what the stopwatch left on the disk."""
        if self._watch is not None:
            self._watch.close()


_FOLDED = ("weight", "running_mean", "running_var", "num_batches_tracked")
"""Of a norm with statistics: what export multiplies into the weight before it."""
_OTHER_RANGES = 1.001
"""Zero points and scales are written in as many digits as they have: real data can make an int8 file larger."""


class ExportedSize(FileSize):
    """Bytes of the largest of the exported files after training: weights, and a graph of about constant size."""

    measured, shifts, enough = True, True, 0.98

    def __init__(self, formats: Sequence[str], precision: str) -> None:
        self._formats, self._precision = tuple(formats), precision
        names = ", ".join(formats)
        self.condition = f"of the exported file: {names}" + (f" in {precision}" if precision != "fp32" else "")

    def terms(self, structure: Structure) -> Sequence[Term]:
        """What a file holds of every tensor, in bytes.

        Export multiplies norms with statistics into the weights before them, so that a bias is left of each. A weight
        in int8 takes a byte.
        """
        tensors, parameters = structure.context.tensors, structure.recording.parameters
        owners = {name.removesuffix("running_var") for name in parameters if name.endswith("running_var")}
        left_out = {owner + part for owner in owners for part in _FOLDED}
        return [
            (tensors[id(tensor)], 1 if self._precision == "int8" and tensor.dim() > 1 else tensor.element_size())
            for name, tensor in parameters.items()
            if name not in left_out
        ]

    def measure(self, model: nn.Module, example_inputs: Any) -> float:
        """Bytes on disk with values as training leaves them, since equal tensors are in a file once.

        int8 is calibrated on noise. Raises UnknownNameError, MissingExtraError, ExportError.
        """
        trained = with_trained_values(model)
        most = max(self._bytes(trained, example_inputs, name) for name in self._formats)
        return float(ceil(most * _OTHER_RANGES) if self._precision == "int8" else most)

    def _bytes(self, model: nn.Module, example_inputs: Any, name: str) -> int:
        runtime = format_named(name)
        inputs = own_inputs(model, example_inputs)
        settings = stand_in(inputs) if self._precision == "int8" else None
        with tempfile.TemporaryDirectory(prefix="reconvene-weigh-") as folder:
            files = write_model(runtime, model, inputs, Path(folder) / f"model{runtime.suffix}", settings)
            return sum(file.stat().st_size for file in files)


class RuntimeMemory(PeakMemory):
    """Bytes that a runtime plans for activations, its allocator and its kernels included."""

    dense_is_exact, enough = False, 0.98

    def __init__(self, runtime: str, precision: str) -> None:
        self._runtime, self._precision = runtime, precision
        self.condition = f"as planned by {runtime} in {precision}"

    def bind(self, structure: Structure, network: Network | None) -> CostFunction:
        """The largest sum of what is alive at once, which no allocator undercuts."""
        policy = format_named(self._runtime).holds.get(self._precision)
        if policy is None:  # it holds activations as PyTorch does
            return COSTS["peak_memory"].bind(structure, network)
        return CostFunction(devices.Held(structure, policy).bytes)

    def measure(self, model: nn.Module, example_inputs: Any) -> float:
        """Bytes as the runtime itself tells. Raises UnknownNameError, MissingExtraError, ExportError."""
        return float(planned_memory(model, example_inputs, plan=self._runtime, precision=self._precision))
