"""From a model in memory to a verified file that a runtime loads."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from reconvene.deploy.calling import own_inputs
from reconvene.deploy.registry import format_named, runtime_named
from reconvene.deploy.verification import Verification
from reconvene.deploy.verification import verify as verify_file
from reconvene.errors import ExportError


def export(
    model: nn.Module,
    directory: str | Path,
    *,
    format: str = "onnx",
    example_inputs: Any = None,
    quantize: str | None = None,
    calibration: Iterable[Any] | None = None,
    name: str = "model",
    verify: bool = True,
    data: Iterable[Any] | None = None,
    seed: int = 0,
) -> Exported:
    """Export any model to ``directory/name.<format>``, and verify what was written before it takes that name.

    ``example_inputs`` (a tensor, positional arguments as a tuple, or keyword arguments as a dict; first dimension the
    batch) are needed only when the model did not come from Reconvene. ``data``, an iterable of ``(inputs, target)``
    batches, is what the file is verified on; without it, seeded noise. The model's weights and mode stay as they are,
    the file computes what the model computes in eval mode, for any batch size.

    Raises UnknownNameError for a format, MissingExtraError, ModelError when the model does not run on the inputs,
    ExportError when it cannot be exported or written, VerificationError when the file computes something else.
    """
    runtime = format_named(format)
    assert runtime.export is not None, "a runtime with a format can export"
    if quantize is not None or calibration is not None:
        raise ExportError(f"quantize={quantize!r}: this version exports fp32 only. Leave out quantize and calibration")
    if not name or Path(name).name != name:
        raise ExportError(f"name={name!r} is not a plain file name")
    directory = Path(directory)
    inputs = own_inputs(model, example_inputs, seed=seed)
    start, verification = time.perf_counter(), None
    try:
        directory.mkdir(parents=True, exist_ok=True)
        # Written beside its destination and moved when complete: a crash or Ctrl-C leaves nothing half-written there.
        with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=directory) as folder:
            files = runtime.export(model, inputs, Path(folder) / f"{name}{runtime.suffix}")
            seconds = time.perf_counter() - start
            if verify:
                verification = verify_file(
                    model, files[0], example_inputs=inputs, data=data, runtime=runtime.name, seed=seed
                )
            for file in reversed(files):  # the main file last: it names the others
                _flush(file)
                os.replace(file, directory / file.name)
    except OSError as error:
        raise ExportError(f"could not write the export into {directory}: {error.strerror or error}") from error
    written = tuple(directory / file.name for file in files)
    return Exported(written[0], written, format, sum(file.stat().st_size for file in written), seconds, verification)


def run(path: str | Path, example_inputs: Any, *, runtime: str = "onnxruntime", threads: int = 1) -> dict[str, Tensor]:
    """Run an exported file once; outputs by name, on the CPU. ModelError when it refuses the file or the inputs."""
    with runtime_named(runtime).open(Path(path), threads) as session:
        return session.run(example_inputs)


@dataclass(frozen=True)
class Exported:
    """What an export left: the file, all files it needs, their bytes, the seconds it took, how it was verified."""

    path: Path
    files: tuple[Path, ...]
    format: str
    bytes: int
    seconds: float
    verification: Verification | None

    def __str__(self) -> str:
        first = f"{self.path}  {self.format}  {self.bytes:,} bytes  in {self.seconds:.1f} s"
        return f"{first}\n{self.verification}" if self.verification else f"{first}, not verified"

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types; file names without their folder."""
        checked = self.verification.to_dict() if self.verification else None
        return {
            "file": self.path.name,
            "files": [file.name for file in self.files],
            "format": self.format,
            "bytes": self.bytes,
            "seconds": self.seconds,
            "verification": checked,
        }


def _flush(file: Path) -> None:
    with file.open("rb") as handle:
        os.fsync(handle.fileno())
