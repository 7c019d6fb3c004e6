"""From a model in memory to a verified file that a runtime loads."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from reconvene.deploy.calling import own_inputs
from reconvene.deploy.fidelity import Fidelity, Limits, verify_int8
from reconvene.deploy.layerwise import layerwise_sqnr
from reconvene.deploy.quantisation import PRECISIONS, Quantisation, quantisation
from reconvene.deploy.registry import format_named, runtime_named, runtime_of
from reconvene.deploy.runtime import Runtime
from reconvene.deploy.verification import Verification
from reconvene.deploy.verification import verify as verify_file
from reconvene.errors import ExportError, UnknownNameError, VerificationError
from reconvene.training.quantising import Range


def export(
    model: nn.Module,
    directory: str | Path,
    *,
    format: str = "onnx",
    example_inputs: Any = None,
    quantize: str | None = None,
    calibration: Iterable[Any] | None = None,
    keep_fp32: Sequence[str] = (),
    learned: Mapping[str, Range] | None = None,
    limits: Limits = Limits(),  # noqa: B008  # frozen
    name: str = "model",
    verify: bool = True,
    data: Iterable[Any] | None = None,
    seed: int = 0,
) -> Exported:
    """Export any model to ``directory/name.<format>``, and verify what was written before it takes that name.

    The model's weights and mode stay as they are; the file computes what the model computes in eval mode. Files of
    ``onnx`` and ``openvino`` take any batch size, those of the others a batch of one.

    Args:
        format: a name in ``reconvene.deploy.FORMATS``.
        example_inputs: a tensor, positional arguments as a tuple, or keyword arguments as a dict; first dimension the
            batch. Needed only when the model did not come from Reconvene.
        quantize: ``"int8"`` writes ``name.int8.<format>``; ``None`` is float32.
        calibration: real data for int8: batches ``(inputs, target)`` or bare inputs, up to 256 samples are used.
        keep_fp32: layers that stay in float32 in an int8 file, by name; a module's name stands for all layers in it.
        learned: ranges of activations from quantisation-aware training (``TrainResult.ranges``), in place of ranges
            measured on the calibration data; executorch only.
        limits: what an int8 file must keep in accuracy, top-1 agreement and SQNR.
        data: batches ``(inputs, target)`` that the file is verified on. Without it: float32 on seeded noise, int8 on
            the calibration data.

    Raises UnknownNameError (format, precision, layer), MissingExtraError, ModelError when the model does not run on the
    inputs, DataError for calibration data that does not fit, ExportError when it cannot be exported or written,
    VerificationError when the file computes something else; for int8 it names the layers that hurt most.
    """
    runtime = format_named(format)
    if quantize not in (None, *PRECISIONS[1:]):
        raise UnknownNameError("precision", quantize, PRECISIONS[1:])
    if quantize is None and (calibration is not None or keep_fp32 or learned is not None):
        raise ExportError("calibration, keep_fp32 and learned are for int8: add quantize='int8', or leave them out")
    if learned is not None and not runtime.takes_ranges:
        raise ExportError(f"int8 {format} measures its own ranges: leave learned out; the trained weights are enough")
    if not name or Path(name).name != name:
        raise ExportError(f"name={name!r} is not a plain file name")
    runtime.require(exporting=True)
    inputs = own_inputs(model, example_inputs, seed=seed)
    settings = None if quantize is None else quantisation(model, inputs, calibration, keep_fp32, learned)
    directory, stem = Path(directory), name if quantize is None else f"{name}.{quantize}"
    start = time.perf_counter()
    checked: Verification | Fidelity | None = None
    try:
        directory.mkdir(parents=True, exist_ok=True)
        # Written beside its destination and moved when complete: a crash or Ctrl-C leaves nothing half-written there.
        with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=directory) as folder:
            files = write(runtime, model, inputs, Path(folder) / f"{stem}{runtime.suffix}", settings)
            seconds = time.perf_counter() - start
            if verify and settings is None:
                checked = verify_file(model, files[0], example_inputs=inputs, data=data, seed=seed)
            elif verify:
                checked = _verified_int8(model, files[0], settings, data, limits)
            for file in reversed(files):  # the main file last: it names the others
                _flush(file)
                os.replace(file, directory / file.name)
    except OSError as error:
        raise ExportError(f"could not write the export into {directory}: {error.strerror or error}") from error
    written = tuple(directory / file.name for file in files)
    size = sum(file.stat().st_size for file in written)
    kept = settings.keep_fp32 if settings is not None else ()
    precision = quantize or "fp32"
    return Exported(written[0], written, format, size, seconds, checked, precision, kept, learned is not None)


def write(runtime: Runtime, model: nn.Module, inputs: Any, path: Path, settings: Quantisation | None) -> list[Path]:
    """Write ``model`` in float32, or as ``settings`` say in int8. Raises ExportError for a runtime that cannot."""
    if settings is None:
        if runtime.export is None:
            raise ExportError(f"{runtime.name} has no files")
        return runtime.export(model, inputs, path)
    if runtime.quantize is None:
        raise ExportError(f"{runtime.name} has no int8 files")
    return runtime.quantize(model, inputs, path, settings)


def _verified_int8(
    model: nn.Module, path: Path, settings: Quantisation | None, data: Iterable[Any] | None, limits: Limits
) -> Fidelity:
    assert settings is not None, "int8 has settings"
    batches = settings.batches(32) if data is None else data
    try:
        what = "the calibration data" if data is None else "real data"
        return verify_int8(
            model, path, data=((b, None) for b in batches) if data is None else data, what=what, limits=limits
        )
    except VerificationError as error:
        ranked = [noise for noise in layerwise_sqnr(model, settings.samples) if noise.layer not in settings.keep_fp32]
        if not ranked:
            raise
        first = ranked[0]
        raise VerificationError(
            f"{error}. The layer that hurts most is {first.layer}: alone in int8 it leaves {first.sqnr:.1f} dB at the "
            f"output (next: {', '.join(f'{n.layer} {n.sqnr:.1f} dB' for n in ranked[1:3]) or 'none'}). Leave it in "
            f"float32 with keep_fp32={[*settings.keep_fp32, first.layer]} "
            f"(--keep-fp32 {','.join([*settings.keep_fp32, first.layer])}), or loosen the limits"
        ) from error


def run(path: str | Path, example_inputs: Any, *, runtime: str | None = None, threads: int = 1) -> dict[str, Tensor]:
    """Run an exported file once, in the runtime that its name ends for, or in the one given; outputs on the CPU.

    Raises UnknownNameError, MissingExtraError, and ModelError when the runtime refuses the file or the inputs.
    """
    chosen = runtime_of(Path(path)) if runtime is None else runtime_named(runtime)
    chosen.require(exporting=False)
    with chosen.open(Path(path), threads) as session:
        return session.run(example_inputs)


@dataclass(frozen=True)
class Exported:
    """What an export left: the file, all files it needs, their bytes, the seconds it took, how it was verified.

    ``precision`` is ``fp32`` or ``int8``; ``keep_fp32`` the layers of an int8 file that are in float32;
    ``learned_ranges`` whether its ranges come from training, not from calibration.
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

    def __str__(self) -> str:
        how = "  learned ranges" if self.learned_ranges else ""
        how += f"  fp32: {', '.join(self.keep_fp32)}" if self.keep_fp32 else ""
        first = f"{self.path}  {self.format}  {self.precision}{how}  {self.bytes:,} bytes  in {self.seconds:.1f} s"
        return f"{first}\n{self.verification}" if self.verification else f"{first}, not verified"

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
            "bytes": self.bytes,
            "verification": checked,
        }


def _flush(file: Path) -> None:
    with file.open("rb") as handle:
        os.fsync(handle.fileno())
