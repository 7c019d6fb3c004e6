"""Files for the Arm Ethos-U: an int8 LiteRT file compiled by Vela, and what the compiler says of it."""

from __future__ import annotations

import csv
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from reconvene.costs.cost_file import CompilerSettings
from reconvene.deploy.runtimes.base import imported
from reconvene.errors import ExportError

_SUFFIX = ".vela.tflite"
_EXTRA = "npu"
_REFUSED = re.compile(r"operator: (\w+), ofm.*?\nReason: ([^\n(]*)")


@dataclass(frozen=True)
class Compiled:
    """A compiled file and the compiler's estimates: no silicon was measured.

    Attributes:
        path: the file, which the driver of the NPU loads in place of the int8 file.
        cycles: clock cycles of one inference.
        sram: bytes of SRAM of one inference.
        flash: bytes of flash: weights, biases and the command stream.
    """

    path: Path
    cycles: int
    sram: int
    flash: int

    def __str__(self) -> str:
        return f"{self.cycles:,} cycles, {self.sram:,} bytes of SRAM, {self.flash:,} bytes of flash"


def compile_file(file: Path, folder: Path, settings: CompilerSettings) -> Compiled:
    """Compile an int8 ``.tflite`` for an NPU into ``folder``, as ``NAME.vela.tflite``.

    Raises:
        MissingExtraError: Vela is absent.
        ExportError: the compiler fails, or operators would run on the processor beside the NPU, whose time nobody
            counts; they are named.
    """
    imported("ethosu.vela", _EXTRA, "compiling for Ethos-U")
    with tempfile.TemporaryDirectory(prefix="reconvene-vela-") as work:
        options = {
            "--accelerator-config": settings.accelerator,
            "--system-config": settings.system,
            "--memory-mode": settings.memory,
            "--output-dir": work,
        }
        command = [
            sys.executable,
            "-m",
            "ethosu.vela",
            str(file),
            *(word for item in options.items() for word in item),
        ]
        completed = subprocess.run(command, capture_output=True, text=True, check=False)
        if completed.returncode != 0:
            lines = (completed.stderr or completed.stdout).strip().splitlines() or ["no message"]
            raise ExportError(f"Vela cannot compile {file.name} for {settings.accelerator}: {lines[-1]}")
        _refuse_processor(completed.stdout, file, settings)
        summary = next(Path(work).glob("*_summary_*.csv"))
        with summary.open(newline="") as handle:
            row = next(csv.DictReader(handle))
        target = folder / f"{file.name.removesuffix('.tflite')}{_SUFFIX}"
        shutil.copyfile(next(Path(work).glob("*_vela.tflite")), target)
    flash = float(row["off_chip_flash_memory_used"]) + float(row["on_chip_flash_memory_used"])
    return Compiled(
        target,
        round(float(row["cycles_total"])),
        round(1024 * float(row["sram_memory_used"])),
        round(1024 * flash),
    )


def _refuse_processor(output: str, file: Path, settings: CompilerSettings) -> None:
    """Raise ExportError where operators are left to the processor."""
    count = re.search(r"CPU operators = (\d+)", output)
    if count is None or int(count[1]) == 0:
        return
    reasons = [f"{operator} ({reason.strip()})" for operator, reason in _REFUSED.findall(output)]
    names = ", ".join(list(dict.fromkeys(reasons))[:4]) or "the compiler names none"
    raise ExportError(
        f"{count[1]} operators of {file.name} cannot run on {settings.accelerator} and would be left to the processor: "
        f"{names}. Replace them in the model, or choose another target"
    )
