"""From a model in memory to a verified file that a runtime loads."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from reconvene.deploy.checking import CheckOptions, Export, quantised, verified
from reconvene.deploy.exported import Exported
from reconvene.deploy.fidelity import Fidelity, Limits
from reconvene.deploy.model_io import own_inputs, take_samples
from reconvene.deploy.options import AUTO, FileOptions, precision_of
from reconvene.deploy.planned import PLAN
from reconvene.deploy.quantisation import PRECISIONS
from reconvene.deploy.runtimes.base import Runtime, Written
from reconvene.deploy.runtimes.registry import FORMATS, format_named, runtime_named, runtime_of
from reconvene.deploy.sharing import shared_conversions
from reconvene.deploy.time_step import CARRIED, FRESH, STATES, one_step
from reconvene.deploy.verification import Verification
from reconvene.errors import ExportError, UnknownNameError
from reconvene.quantiser.activations import Range
from reconvene.structure.capture import settle_state
from reconvene.structure.nesting import seeded
from reconvene.tasks import task_named
from reconvene.utils.arguments import check_model, check_path, check_seed, checked
from reconvene.utils.progress import ProgressOption, listening, stage

__all__ = ["Exported", "export", "run_file"]


@checked(model=check_model, directory=check_path, seed=check_seed)
@seeded
def export(
    model: nn.Module,
    directory: str | Path,
    *,
    format: str = "onnx",
    example_inputs: Any = None,
    precision: str | None = None,
    batch: str | int = AUTO,
    dynamic_axes: Sequence[str] = (),
    opset: int | None = None,
    state: str = FRESH,
    quantize: str | None = None,
    calibration: Iterable[Any] | None = None,
    keep_fp32: Sequence[str] = (),
    learned: Mapping[str, Range] | None = None,
    limits: Limits = Limits(),  # noqa: B008  # frozen
    task: str | None = None,
    name: str = "model",
    verify: bool = True,
    data: Iterable[Any] | None = None,
    tolerance: float | None = None,
    seed: int = 0,
    progress: ProgressOption = None,
) -> Exported:
    """Export any model to ``directory/name.<format>``, and verify what was written before it takes that name.

    The model's weights and mode stay as they are; the file computes what the model computes in eval mode.

    Args:
        format: a name in ``reconvene.deploy.FORMATS``.
        example_inputs: a tensor, positional arguments as a tuple, or keyword arguments as a dict; first dimension the
            batch. Needed only when the model did not come from Reconvene.
        precision: ``"fp16"`` writes ``name.fp16.<format>`` with weights in float16, inputs and outputs as they are;
            ``None`` is the model's own, so that a model in float16 gives a file in float16.
        batch: ``"auto"``: any batch size where format and model allow it, a batch of one in the formats that have
            no free batch, and the example's batch, with a note, where the model computes for no other; ``"free"``,
            ``"static"`` (the example's) or a number insist.
        dynamic_axes: ``"height"``, ``"width"``: axes of images that are free besides the batch; onnx and openvino.
        opset: of an ONNX file, by default 20.
        state: of a network that keeps state between calls (membranes): ``"fresh"``: a call of the file begins afresh,
            and time steps that the model takes in one call are unrolled; ``"carried"`` writes ``name.step.<format>``,
            one time step that takes the state, by the names of modules, and gives the next one (``one_step``); onnx,
            openvino and executorch.
        quantize: ``"int8"`` writes ``name.int8.<format>``; ``"plan"`` writes ``name.plan.<format>`` with the bits of
            the plan that the small network carries, packed, and computed in int8 (docs/bits.md); onnx, openvino and
            litert.
        calibration: real data for int8: batches ``(inputs, target)`` or bare inputs, up to 256 samples are used.
        keep_fp32: layers that stay in float32 in an int8 file, by name; a module's name stands for all layers in it.
        learned: ranges of activations from quantisation-aware training (``TrainResult.ranges``), in place of ranges
            measured on the calibration data; executorch only.
        limits: what an int8 file must keep in accuracy, agreement and SQNR.
        task: a name in ``reconvene.tasks.TASKS``, such as ``"classification"``: outputs are class scores, and agreement
            is asked for; ``"regression"``: they are not, and errors alone decide (SQNR in int8). ``None``: class scores
            where the data has labels for them.
        data: batches ``(inputs, target)`` that the file is verified on. Without it: float32 on seeded noise, int8 on
            the calibration data.
        tolerance: largest error of a float32 or float16 file, as a share of the largest output; by default the
            runtime's own, 1e-4, and 1e-2 in float16.
        progress: as for ``rc.plan``.

    Raises UnknownNameError (format, precision, layer, option), MissingExtraError, ModelError when the model does not
    run on the inputs, DataError for calibration data that does not fit, ExportError when it cannot be exported, written
    or run, or has an option that the format lacks, VerificationError when the file computes something else; for int8 it
    names layers that were tried in float32 and helped.

    >>> import tempfile
    >>> import torch
    >>> import reconvene as rc
    >>> from torch import nn
    >>> model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 8, 3))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     exported = rc.export(model, folder, example_inputs=torch.randn(1, 3, 16, 16))
    ...     exported.path.name
    'model.onnx'
    """
    runtime = format_named(format)
    _check_state(runtime, state, quantize, data)
    _check(runtime, format, name, task, tolerance, quantize, calibration is not None or bool(keep_fp32), learned)
    width, half = precision_of(model, precision)
    options = FileOptions(batch, tuple(dict.fromkeys(dynamic_axes)), opset, width, half)
    options.check(runtime, int8=quantize is not None)
    runtime.require(exporting=True)
    inputs = own_inputs(model, example_inputs, seed=seed)
    settle_state(model, inputs)
    if state == CARRIED:
        model, inputs = one_step(model, inputs)
    # Without an example, a file whose batch cannot be free takes one sample.
    example = inputs if example_inputs is not None else take_samples(inputs, 0, 1)
    options, inputs = options.resolved(model, runtime, example)
    work = Export(runtime, model, inputs, None, options, model)
    if quantize is not None:
        work = quantised(work, quantize, calibration, keep_fp32, learned)
    parts = ["step" if state == CARRIED else "", quantize or ("fp16" if precision == "fp16" else "")]
    stem = ".".join([name, *(part for part in parts if part)])
    with listening(progress), shared_conversions():
        check = CheckOptions(data, limits, task, tolerance, seed) if verify else None
        return _written(work, Path(directory), stem, check, format=format, precision=quantize or width)


def _written(
    work: Export, directory: Path, stem: str, check: CheckOptions | None, *, format: str, precision: str
) -> Exported:
    """Write the file, verify it where there is a ``check``, and give it its name.

    It is written beside its destination and moved when complete: a crash or Ctrl-C leaves nothing half-written there.
    """
    file, settings = f"{stem}{work.runtime.suffix}", work.settings
    start = time.perf_counter()
    checked: Verification | Fidelity | None = None
    notes: list[str] = []
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{stem}-", dir=directory) as folder:
            with stage(f"writing {file}", summary=False):
                written = work.write(Path(folder) / file, settings)
            seconds = time.perf_counter() - start
            if check is not None:
                with stage(f"verifying {file}", summary=False):
                    checked, notes = verified(work, written, check)
            files = _moved(written, directory)
    except OSError as error:
        raise ExportError(f"could not write the export into {directory}: {error.strerror or error}") from error
    return Exported(
        path=files[0],
        files=files,
        format=format,
        bytes=sum(path.stat().st_size for path in files),
        seconds=seconds,
        verification=checked,
        precision=precision,
        keep_fp32=tuple(dict.fromkeys((*(settings.keep_fp32 if settings is not None else ()), *written.keep_fp32))),
        learned_ranges=settings is not None and settings.learned is not None,
        batch=written.batch,
        dynamic_axes=work.options.dynamic_axes,
        opset=work.options.opset,
        notes=(*written.notes, *notes),
    )


def _check(
    runtime: Runtime,
    format: str,
    name: str,
    task: str | None,
    tolerance: float | None,
    quantize: str | None,
    has_int8_options: bool,
    learned: Mapping[str, Range] | None,
) -> None:
    """Raise for options that mean nothing, before any work."""
    if quantize not in (None, *PRECISIONS[1:], PLAN):
        raise UnknownNameError("precision", quantize, [*PRECISIONS[1:], PLAN])
    if quantize is None and (has_int8_options or learned is not None):
        raise ExportError("calibration, keep_fp32 and learned are for int8: add quantize='int8', or leave them out")
    if learned is not None and not runtime.takes_ranges:
        raise ExportError(f"int8 {format} measures its own ranges: leave learned out; the trained weights are enough")
    if not name or Path(name).name != name:
        raise ExportError(f"name={name!r} is not a plain file name")
    if task is not None:
        task_named(task)
    if tolerance is not None and quantize is not None:
        raise ExportError("tolerance is for float32 and float16: int8 has limits")
    if tolerance is not None and not 0 < tolerance < 1:
        raise ExportError(f"tolerance={tolerance} must be between 0 and 1: a share of the largest output")


def _check_state(runtime: Runtime, state: str, quantize: str | None, data: Iterable[Any] | None) -> None:
    """Raise for a state that the format, or the other options, do not go with."""
    if state not in STATES:
        raise UnknownNameError("state", state, STATES)
    if state == CARRIED and "state" not in runtime.takes:
        formats = sorted(format_name for format_name, other in FORMATS.items() if "state" in other.takes)
        raise ExportError(
            f"state='carried' is nothing that {runtime.name} files have here. Formats: {', '.join(formats)}"
        )
    if state == CARRIED and quantize is not None:
        raise ExportError("int8 is calibrated on data, which hold no state: leave quantize or state='carried' out")
    if state == CARRIED and data is not None:
        raise ExportError("a step is verified on noise, state and all, since data hold no state: leave data out")


def _moved(written: Written, directory: Path) -> tuple[Path, ...]:
    """Give the files their names, the main one last: it names the others."""
    for file in reversed(written.files):
        _flush(file)
        os.replace(file, directory / file.name)
    return tuple(directory / file.name for file in written.files)


def run_file(
    path: str | Path, example_inputs: Any, *, runtime: str | None = None, threads: int = 1
) -> dict[str, Tensor]:
    """Run an exported file once, in the runtime that its name ends for, or in the one given; outputs on the CPU.

    Raises UnknownNameError, MissingExtraError, and ModelError when the runtime refuses the file or the inputs.
    """
    chosen = runtime_of(Path(path)) if runtime is None else runtime_named(runtime)
    chosen.require(exporting=False)
    with chosen.open(Path(path), threads) as session:
        return session.run(example_inputs)


def _flush(file: Path) -> None:
    with file.open("rb") as handle:
        os.fsync(handle.fileno())
