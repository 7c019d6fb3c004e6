"""Costs on an NPU: predicted by the formulas of a cost file, measured by the compiler of the chip."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any
from weakref import ref

from torch import nn

from reconvene.costs import Cost, CostFile, CostFunction, Network
from reconvene.costs.activation_memory import PeakMemory
from reconvene.costs.cost_file import CompilerSettings
from reconvene.costs.file_size import FileSize
from reconvene.costs.unit import BYTES, CYCLES
from reconvene.deploy.model_io import own_inputs
from reconvene.deploy.npu import Compiled, compile_file
from reconvene.deploy.quantisation import stand_in
from reconvene.deploy.runtimes.registry import format_named
from reconvene.deploy.writing import write_model
from reconvene.planning.measuring.trained_values import with_trained_values
from reconvene.structure import Structure


class NpuCompiler:
    """Writes networks as int8 LiteRT files, as large as after training, and compiles them; the latest result is kept.

    They are calibrated on noise.
    """

    def __init__(self, settings: CompilerSettings) -> None:
        self.settings = settings
        self._latest: tuple[ref[nn.Module], Compiled] | None = None

    def compile(self, model: nn.Module, example_inputs: Any) -> Compiled:
        """What the compiler says of a network. Raises MissingExtraError, ExportError."""
        if self._latest is None or self._latest[0]() is not model:
            runtime = format_named("litert")
            replace(runtime, extra="litert,npu").require(exporting=True)
            inputs = own_inputs(model, example_inputs)
            with tempfile.TemporaryDirectory(prefix="reconvene-npu-") as folder:
                trained = with_trained_values(model)
                file, *_ = write_model(runtime, trained, inputs, Path(folder) / "model.tflite", stand_in(inputs))
                self._latest = ref(model), compile_file(file, Path(folder), self.settings)
        return self._latest[1]


class _NpuCost(Cost):
    listed = False
    measured, enough = True, 0.97

    def __init__(self, file: CostFile, compiler: NpuCompiler) -> None:
        self._compiler, self.condition = compiler, f"predicted for {file.title}"
        self._measured_condition = f"on {file.title}, by its compiler {compiler.settings.name}, for int8"

    @property
    def measured_condition(self) -> str:
        """Names the chip and the compiler."""
        return self._measured_condition

    def measure(self, model: nn.Module, example_inputs: Any) -> float:
        """As the compiler says. Raises MissingExtraError, ExportError."""
        return float(getattr(self._compiler.compile(model, example_inputs), self.name))


class NpuCycles(_NpuCost):
    """Cycles of one inference: the formulas of the file predict how they follow widths."""

    name, label, plural, less, unit = "cycles", "Cycles", "cycles", "fewer", CYCLES
    meaning = "Clock cycles of one inference on the target: 2x, 60k."

    def __init__(self, file: CostFile, compiler: NpuCompiler) -> None:
        super().__init__(file, compiler)
        self._file_cost = file.costs["cycles"]

    def bind(self, structure: Structure, network: Network | None) -> CostFunction:
        """The prediction at any widths."""
        return self._file_cost.bind(structure, network)


class NpuSram(_NpuCost, PeakMemory):
    """Bytes of SRAM of one inference: predicted as a quarter of what PyTorch holds in float32."""

    name, label, plural, less, unit = "sram", "SRAM", "bytes of SRAM", "less", BYTES
    meaning = "Bytes of SRAM of one inference on the target: 2x, 128KiB."
    dense_is_exact = False

    def bind(self, structure: Structure, network: Network | None) -> CostFunction:
        """The prediction at any widths."""
        peak = PeakMemory.bind(self, structure, network)
        return CostFunction(lambda widths: peak.at(widths) / 4)


class NpuFlash(_NpuCost, FileSize):
    """Bytes of flash: predicted as a quarter of the float32 weights."""

    name, label, plural, less, unit = "flash", "Flash", "bytes of flash", "smaller", BYTES
    meaning = "Bytes of flash that the compiled file takes on the target: 200KiB."
    shifts = True

    def bind(self, structure: Structure, network: Network | None) -> CostFunction:
        """The prediction at any widths."""
        size = FileSize.bind(self, structure, network)
        return CostFunction(lambda widths: size.at(widths) / 4)


def npu_costs(file: CostFile) -> dict[str, Cost]:
    """The costs of a chip whose file names a compiler, one compilation a network for all of them."""
    assert file.compiler is not None, "the file names a compiler"
    compiler = NpuCompiler(file.compiler)
    return {cost.name: cost for cost in (NpuCycles(file, compiler), NpuSram(file, compiler), NpuFlash(file, compiler))}
