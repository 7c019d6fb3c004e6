"""What an export left behind."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reconvene.deploy.fidelity import Fidelity
from reconvene.deploy.verification import Verification


@dataclass(frozen=True)
class Exported:
    """What an export left: the file, all files it needs, their bytes, the seconds it took, how it was verified.

    ``precision`` is ``fp32``, ``fp16`` or ``int8``; ``keep_fp32`` the layers of an int8 file that are in float32;
    ``learned_ranges`` whether its ranges come from training, not from calibration; ``batch`` how many examples a call
    takes, ``None`` for any number; ``dynamic_axes`` what else is free; ``opset`` that of an ONNX file where it was
    asked for. ``notes`` say where the file is not what one would expect: a batch that could not be free, layers that
    the runtime cannot have in int8.
    """

    path: Path
    files: tuple[Path, ...]
    format: str
    bytes: int
    seconds: float
    verification: Verification | Fidelity | None
    precision: str = "fp32"
    keep_fp32: tuple[str, ...] = ()
    learned_ranges: bool = False
    batch: int | None = None
    dynamic_axes: tuple[str, ...] = ()
    opset: int | None = None
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        details = "  learned ranges" if self.learned_ranges else ""
        details += f"  fp32: {', '.join(self.keep_fp32)}" if self.keep_fp32 else ""
        details += f"  free: {', '.join(self.dynamic_axes)}" if self.dynamic_axes else ""
        first = f"{self.path}  {self.format}  {self.precision}{details}  {self.bytes:,} bytes  in {self.seconds:.1f} s"
        first = first if self.verification else f"{first}, not verified"
        return "\n".join([first, *(f"note: {note}" for note in self.notes), *self._checked()])

    def _checked(self) -> list[str]:
        return [str(self.verification)] if self.verification else []

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types; file names without their folder."""
        checked = self.verification.to_dict() if self.verification else None
        return {
            "file": self.path.name,
            "files": [file.name for file in self.files],
            "format": self.format,
            "precision": self.precision,
            "keep_fp32": list(self.keep_fp32),
            "learned_ranges": self.learned_ranges,
            "batch": self.batch,
            "dynamic_axes": list(self.dynamic_axes),
            "opset": self.opset,
            "notes": list(self.notes),
            "bytes": self.bytes,
            "verification": checked,
        }
