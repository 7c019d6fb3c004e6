"""An export is checked in its runtime before it takes its name: it runs, and it computes what the model computes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from reconvene.deploy.advice import TRIALS, advice, remedy
from reconvene.deploy.fidelity import SAMPLES, Fidelity, Limits, fidelity, verify_int8
from reconvene.deploy.layerwise import layerwise_sqnr
from reconvene.deploy.model_io import batch_size, in_inference, labelled_samples, leaves, outputs_of, take_samples
from reconvene.deploy.options import FileOptions, free_axes
from reconvene.deploy.planned import PLAN, planned
from reconvene.deploy.quantisation import Quantisation, quantisation, quantised_layers
from reconvene.deploy.runtimes.base import Runtime, Written
from reconvene.deploy.verification import HALF_TOLERANCE, Verification
from reconvene.deploy.verification import verify_export as verify_file
from reconvene.deploy.writing import write_file
from reconvene.errors import ExportError, ModelError, ReconveneError, VerificationError
from reconvene.quantiser.activations import Range
from reconvene.structure.inputs import map_tensors
from reconvene.utils.progress import stage

LENGTHEN: tuple[Callable[[str, int], int], ...] = (
    lambda axis, size: size + {"height": 32, "width": 64}[axis],
    lambda axis, size: 2 * size,
    lambda axis, size: max(size // 2, 1),
)
"""The second size of a free axis, the first that the model runs on: most networks halve sizes five times at most."""


@dataclass(frozen=True, eq=False)
class CheckOptions:
    """How an export is verified: see ``export``."""

    data: Iterable[Any] | None
    limits: Limits
    task: str | None
    tolerance: float | None
    seed: int


@dataclass(frozen=True, eq=False)
class Export:
    """One model on its way into a file."""

    runtime: Runtime
    model: nn.Module
    inputs: Any
    settings: Quantisation | None
    options: FileOptions
    reference: nn.Module
    """What the file is compared with: the model, whose layers read few bits where its plan says so."""

    def write(self, path: Path, settings: Quantisation | None) -> Written:
        """See ``write_file``."""
        return write_file(self.runtime, self.model, self.inputs, path, settings, self.options)


def quantised(
    work: Export,
    quantize: str,
    calibration: Iterable[Any] | None,
    keep_fp32: Sequence[str],
    learned: Mapping[str, Range] | None,
) -> Export:
    """The same model on its way into a file of int8, or of the bits of its plan. Raises ExportError."""
    if quantize != PLAN:
        return replace(work, settings=quantisation(work.model, work.inputs, calibration, keep_fp32, learned))
    by_plan = planned(work.model, work.runtime, calibration, keep_fp32)
    settings = quantisation(by_plan.model, work.inputs, by_plan.calibration, keep_fp32, learned)
    reference = by_plan.as_computed(settings.samples)
    settings = replace(settings, packed=by_plan.weights, inputs=by_plan.narrow(reference))
    return replace(work, model=by_plan.model, settings=settings, reference=reference)


def verified(export: Export, written: Written, check: CheckOptions) -> tuple[Verification | Fidelity, list[str]]:
    """How the file compares with the model, and in words what else was looked at.

    Raises ExportError for a file that its runtime does not run, VerificationError for one that computes otherwise.
    """
    path, options = written.files[0], export.options
    inputs = take_samples(export.inputs, 0, written.batch or batch_size(export.inputs))
    _run_once(export, path, inputs)
    tolerance = check.tolerance or (HALF_TOLERANCE if options.precision == "fp16" else None)
    notes = []
    if export.settings is not None:
        result: Verification | Fidelity = _verified_int8(export, export.settings, written, check)
    else:
        result = verify_file(
            export.model,
            path,
            example_inputs=inputs,
            data=check.data,
            task=check.task,
            tolerance=tolerance,
            seed=check.seed,
        )
    if options.dynamic_axes:
        notes.append(_verified_at_another_size(export, path, inputs, check, tolerance))
    return result, notes


def _run_once(export: Export, path: Path, inputs: Any) -> None:
    """What a runtime cannot run is no export: the error names what it stopped at."""
    name = type(export.model).__name__
    try:
        with export.runtime.open(path, 1) as session:
            session.run(inputs)
    except ModelError as error:
        raise ExportError(
            f"{name} was written as {export.runtime.file_format}, but does not run in {export.runtime.name}: {error}. "
            "Export it to another format, or replace that operator"
        ) from error


def _verified_int8(export: Export, settings: Quantisation, written: Written, check: CheckOptions) -> Fidelity:
    """Raises VerificationError with what to try, which was tried before it is said."""
    source = "the calibration data" if check.data is None else "real data"
    batch = (settings.samples, settings.targets) if check.data is None else labelled_samples(check.data, SAMPLES)

    def compare(path: Path) -> Fidelity:
        options: dict[str, Any] = {"runtime": export.runtime.name, "description": source, "limits": check.limits}
        with export.runtime.open(path, 1) as session:
            return fidelity(export.reference, session, [batch], task=check.task, **options)

    result = compare(written.files[0])
    try:
        result.check()
    except VerificationError as error:
        with stage("looking for layers to keep in float32", summary=False):
            hint = _advice(export, settings, written, result, compare)
        raise VerificationError(f"{error}. {hint}") from error
    return result


def _advice(
    export: Export, settings: Quantisation, written: Written, result: Fidelity, compare: Callable[[Path], Fidelity]
) -> str:
    """Which layers to leave in float32: ranked in PyTorch, then tried in the runtime. Few bits have another reason."""
    if settings.inputs:
        return (
            f"The plan lets {len(settings.inputs)} layers read fewer than 8 bits, where a value between two steps goes "
            "either way. Plan with more activation_bits, train the network on, or loosen the limits"
        )

    def trial(extra_layers: tuple[str, ...]) -> Fidelity | None:
        path = written.files[0].with_name(f"trial{export.runtime.suffix}")
        names = tuple(name for name in quantised_layers(export.model) if name in (*settings.keep_fp32, *extra_layers))
        files: tuple[Path, ...] = ()
        try:
            files = export.write(path, replace(settings, keep_fp32=names)).files
            return compare(path)
        except ReconveneError:
            return None  # the runtime cannot have it so: no layer would be left, or its neighbours must be int8
        finally:
            for file in files:
                file.unlink(missing_ok=True)

    ranked = [noise.layer for noise in layerwise_sqnr(export.model, settings.samples, batch=written.batch)]
    candidates = [name for name in ranked if name not in (*settings.keep_fp32, *written.keep_fp32)][:TRIALS]
    return advice(*remedy(result, candidates, trial), settings.keep_fp32, candidates)


def _verified_at_another_size(
    export: Export, path: Path, inputs: Any, check: CheckOptions, tolerance: float | None
) -> str:
    """Compare at a second height and width. Raises ExportError where the model itself has only one."""
    options, axes = export.options, ", ".join(export.options.dynamic_axes)
    lengthen = next((change for change in LENGTHEN if _runs(export.model, _resized(inputs, options, change))), None)
    if lengthen is None:
        raise ExportError(f"{type(export.model).__name__} runs at the size of its example only: {axes} cannot be free")
    resized_inputs = _resized(inputs, options, lengthen)
    shapes = ", ".join("x".join(map(str, tensor.shape[1:])) for tensor in leaves(resized_inputs) if tensor.ndim >= 4)
    if export.settings is None:
        verification = verify_file(
            export.model, path, example_inputs=resized_inputs, tolerance=tolerance, seed=check.seed
        )
        return f"{axes} free: verified at {shapes} too, relative error {verification.max_rel_error:.1e}"
    samples = take_samples(export.settings.samples, 0, min(32, len(export.settings)))
    limits = Limits(agreement=0, sqnr=check.limits.sqnr, accuracy_drop=1)
    larger = [(_resized(samples, options, lengthen), None)]
    measured = verify_int8(export.reference, path, data=larger, what=f"the calibration data at {shapes}", limits=limits)
    return f"{axes} free: verified at {shapes} too, SQNR {measured.sqnr:.1f} dB"


def _resized(tree: Any, options: FileOptions, lengthen: Callable[[str, int], int]) -> Any:
    """Every image in other sizes of its free axes, by repeating the nearest values: ranges stay as they are."""

    def resize(tensor: Tensor) -> Tensor:
        free = free_axes(tensor, options)
        if not free:
            return tensor
        sizes = [lengthen(free[i], n) if i in free else n for i, n in enumerate(tensor.shape)]
        return functional.interpolate(tensor.float(), sizes[2:], mode="nearest").to(tensor.dtype)

    return map_tensors(resize, tree)


def _runs(model: nn.Module, inputs: Any) -> bool:
    try:
        with in_inference(model):
            outputs_of(model, inputs)
    except ModelError:
        return False
    return True
