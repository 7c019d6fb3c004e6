"""Exporting an artifact, with the dense network beside it, and timing both in the same run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from reconvene import artifact
from reconvene.data import Calibration, Dataset, stratified_calibration, test_batches
from reconvene.deploy import BenchData, BenchResult, Exported, Limits
from reconvene.deploy import export as export_file
from reconvene.deploy import time_variants as bench_variants
from reconvene.deploy.runtimes.registry import format_named
from reconvene.deploy.sharing import once
from reconvene.errors import ArtifactError, ExportError, VerificationError
from reconvene.models import example_inputs
from reconvene.quantiser.activations import Range
from reconvene.utils.files import write_atomic
from reconvene.utils.progress import ProgressOption, listening, stage
from reconvene.workflow.compiling import compiler_for, with_compiled
from reconvene.workflow.inputs import DataChoice, DataLike, dataset_for
from reconvene.workflow.origin import DENSE
from reconvene.workflow.prune import BENCH
from reconvene.workflow.qat import learned_ranges

_BEST_DATA = "best what the model was trained on"


@dataclass(frozen=True)
class Int8:
    """How int8 is made: what it must keep, which layers stay in float32, on how many images it is calibrated.

    ``plan_bits``: weights in the bits of the artifact's plan, computed in int8, as ``model.plan.onnx``; the dense
    network beside it has 8 bits everywhere.

    >>> import reconvene as rc
    >>> rc.Int8(keep_fp32=("head",)).samples
    256
    """

    limits: Limits = Limits()  # noqa: RUF009  # frozen
    keep_fp32: tuple[str, ...] = ()
    samples: int = 256
    chip: str | None = None
    """Target that LiteRT files are compiled for, if it has a compiler; ``None``: what the artifact was pruned for."""
    plan_bits: bool = False

    def precision(self, *, of_artifact: bool = True) -> str:
        """What ``reconvene.export`` calls it, for the network of the artifact or for the dense one."""
        return "plan" if self.plan_bits and of_artifact else "int8"


@dataclass(frozen=True)
class Form:
    """How files are written and judged; the names are those of ``reconvene.export``.

    ``task`` is ``None`` where the artifact, or the dataset, says what the model is for.
    """

    precision: str | None = None
    batch: str | int = "auto"
    dynamic_axes: tuple[str, ...] = ()
    opset: int | None = None
    task: str | None = None
    tolerance: float | None = None
    state: str = "fresh"

    def options(self, folder: Path, dataset: Dataset | None) -> dict[str, Any]:
        """These as ``reconvene.export`` takes them."""
        recorded = artifact.Artifact.open(folder).preprocessing
        recorded_task = None if recorded is None else recorded.task
        names = ("precision", "batch", "dynamic_axes", "opset", "tolerance", "state")
        return {
            **{name: getattr(self, name) for name in names},
            "task": self.task or (recorded_task if dataset is None else dataset.task.name),
        }


def export_artifact(
    directory: str | Path,
    *,
    formats: Sequence[str] = ("onnx",),
    form: Form = Form(),  # frozen
    int8: Int8 | None = None,
    dataset: Dataset | None = None,
    with_dense: bool = False,
    only: str | None = None,
    input_shape: tuple[int, ...] | None = None,
    seed: int = 0,
    allow_import: bool = False,
) -> dict[str, list[Exported]]:
    """Export the model of an artifact into its folder and verify it: ``model.onnx``. Returns exports by variant.

    Args:
        formats: what ``reconvene.deploy.FORMATS`` knows.
        form: precision, batch, free axes and opset of the files, and whether their outputs are class scores.
        int8: quantise, calibrated on training images of ``dataset``: ``model.int8.onnx``; ``None`` is float32. Formats
            that can take ranges from quantisation-aware training take those, where the artifact has them.
        dataset: whose test images the export is verified on; without it, seeded noise.
        with_dense: also the dense network it is compared with, as ``dense.onnx``.
        only: this variant alone, ``dense`` or ``pruned``.
        input_shape: of one example; by default what the artifact says.

    Raises UnknownNameError, MissingExtraError, ExportError, DataError, VerificationError, ArtifactError.
    """
    folder = Path(directory)
    if int8 is not None and dataset is None:
        raise ExportError(f"int8 is calibrated on real data: give dataset= (--data), {_BEST_DATA}")
    for format_name in formats:
        format_named(format_name).require(exporting=True)
    inputs = _inputs(folder, input_shape, batch=1, seed=seed)
    models = variants(folder, allow_import=allow_import)
    options = form.options(folder, dataset)
    artifact_variant = list(models)[-1]  # what the artifact itself holds
    quantising: dict[str, Any] = {}
    if int8 is not None and dataset is not None:
        images = calibration_of(dataset, int8.samples, seed=seed)
        quantising = {"calibration": images, "keep_fp32": int8.keep_fp32, "limits": int8.limits}
    compiler = None if int8 is None else compiler_for(folder, int8.chip)
    ranges = _ranges(folder, models)
    by_variant: dict[str, list[Exported]] = {}
    for variant, model in models.items():
        if variant != (only or artifact_variant) and not (with_dense and only is None):
            continue
        name = "model" if variant == artifact_variant else variant
        if int8 is not None:
            quantising["quantize"] = int8.precision(of_artifact=variant == artifact_variant)
        for format_name in formats:
            kind = format_name if int8 is None else f"{format_name} in {quantising['quantize']}"
            with stage(f"exporting {name} to {kind} and verifying it"):
                # data hold no state, so a step that takes one is verified on noise
                data = None if dataset is None or form.state != "fresh" else test_batches(dataset, batch_size=32)
                learned = ranges.get(variant) if quantising and format_named(format_name).takes_ranges else None
                try:
                    exported = export_file(
                        model,
                        folder,
                        format=format_name,
                        example_inputs=inputs,
                        name=name,
                        data=data,
                        seed=seed,
                        learned=learned,
                        **options,
                        **quantising,
                    )
                except (VerificationError, ExportError) as error:
                    if quantising:
                        file = f"{name}.{quantising['quantize']}{format_named(format_name).suffix}"
                        _note_refusal(folder, file, str(error))
                    raise
                if quantising:
                    _note_refusal(folder, exported.path.name, None)
            if compiler is not None and format_name == "litert":
                with stage(f"compiling {exported.path.name} for {compiler.accelerator}"):
                    exported = with_compiled(exported, compiler, folder, dense=name == DENSE)
            by_variant.setdefault(variant, []).append(exported)
    rows = [
        artifact.ExportRecord(variant=variant, **exported.to_dict())
        for variant, exports in by_variant.items()
        for exported in exports
    ]
    files = {row.file for row in rows}
    judged = {name: safety for name, safety in artifact.Artifact.open(folder).safety.items() if name not in files}
    safety = {name: result.to_dict() for name, result in judged.items()}  # of files that are others now
    artifact.add_measurements(folder, {"exports": _with_earlier(folder, rows), "safety": safety})
    return by_variant


def _note_refusal(folder: Path, file: str, reason: str | None) -> None:
    """Keep in the artifact why an int8 file was not kept, for the report; ``None``: it was, after all."""
    before = artifact.Artifact.open(folder).refused
    after = {name: why for name, why in before.items() if name != file} | ({file: reason} if reason else {})
    if after != before:
        artifact.add_measurements(folder, {"refused": after})


def bench(
    directory: str | Path,
    *,
    runtimes: Sequence[str] = ("onnxruntime", "eager"),
    int8: Int8 | None = None,
    data: DataLike | None = None,
    batch: int = 1,
    input_shape: tuple[int, ...] | None = None,
    threads: int = 1,
    repeats: int = 30,
    seed: int = 0,
    allow_import: bool = False,
    progress: ProgressOption = None,
) -> BenchResult:
    """Time dense beside pruned, in each runtime, interleaved; kept as ``bench.json``.

    Args:
        directory: of the artifact.
        runtimes: names in ``reconvene.deploy.RUNTIMES``. One that fails is left out, with the reason.
        int8: also in int8, in every runtime that has it, calibrated on training images of ``data``.
        data: as for ``rc.train``; its test images say how often each file agrees with PyTorch, and how often it is
            right.
        batch: examples in one inference.
        input_shape: of one example; by default what the artifact says.
        threads: a runtime may use.
        repeats: rounds.
        seed: of the inputs, and of the order in which files take turns.
        allow_import: let a model of your own be imported, which runs its code.
        progress: as for ``rc.plan``.

    Raises UnknownNameError, MissingExtraError, ExportError, DataError, ArtifactError.

    >>> import tempfile
    >>> import torch
    >>> import reconvene as rc
    >>> from reconvene.models import MODELS
    >>> small = rc.prune(MODELS["resnet20"](width=0.25), torch.randn(1, 3, 32, 32), rc.Budget(params="2x"))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     rc.save(small, folder)
    ...     result = rc.bench(folder, runtimes=["eager"], repeats=3)
    >>> [(row.runtime, row.variant) for row in result.rows]
    [('eager', 'dense'), ('eager', 'pruned')]
    """
    folder = Path(directory)
    if int8 is not None and data is None:
        raise ExportError(f"int8 is calibrated on real data: give data= (--data), {_BEST_DATA}")
    inputs = _inputs(folder, input_shape, batch=batch, seed=seed)
    models = variants(folder, allow_import=allow_import)
    with listening(progress):
        dataset = None if data is None else dataset_for(folder, data, DataChoice(input_shape=input_shape))
        evidence = BenchData() if dataset is None else _bench_data(folder, dataset, models, int8, seed)
        with stage(f"timing {' beside '.join(models)}"):
            result = bench_variants(
                models,
                inputs,
                runtimes=runtimes,
                precisions=("fp32",) if int8 is None else ("fp32", "int8"),
                evidence=evidence,
                threads=threads,
                repeats=repeats,
                seed=seed,
            )
    write_atomic(folder / BENCH, (result.to_json() + "\n").encode())
    return result


def _bench_data(
    folder: Path, dataset: Dataset, models: Mapping[str, nn.Module], int8: Int8 | None, seed: int
) -> BenchData:
    """The data beside the clock: what int8 is calibrated on, and what files are judged by."""
    test = Calibration(tuple(test_batches(dataset, batch_size=32)), f"test images of {dataset.name}")
    images = calibration_of(dataset, int8.samples, seed=seed) if int8 else None
    in_float = int8.keep_fp32 if int8 else ()
    return BenchData(images, test, str(test), in_float, _ranges(folder, models), dataset.task.name)


def calibration_of(dataset: Dataset, samples: int, *, seed: int) -> Calibration:
    """What int8 is calibrated on: training images, every class in its proportion, in batches of 32."""
    return stratified_calibration(dataset, samples, seed=seed, batch_size=32)


def _with_earlier(folder: Path, rows: list[artifact.ExportRecord]) -> list[artifact.ExportRecord]:
    """These exports, after earlier ones whose files are still there and were not made anew."""
    new = {row.file for row in rows}
    before = artifact.Artifact.open(folder).exports
    return [row for row in before if row.file not in new and (folder / row.file).exists()] + rows


def variants(folder: Path, *, allow_import: bool) -> dict[str, nn.Module]:
    """``dense`` (trained, where there is one) and then ``pruned``, in eval mode; a dense artifact is ``dense`` alone.

    Loaded once within ``shared_conversions``, as long as the weights on disk are the same files.

    Raises ArtifactError.
    """
    weights = [folder / artifact.WEIGHTS, folder / DENSE / artifact.WEIGHTS]
    stamps = tuple((s.st_ino, s.st_mtime_ns, s.st_size) for s in (path.stat() for path in weights if path.is_file()))
    key = ("variants", folder.resolve(), stamps, allow_import)
    return once(None, key, lambda: _loaded(folder, allow_import=allow_import))


def _loaded(folder: Path, *, allow_import: bool) -> dict[str, nn.Module]:
    model = artifact.load(folder, allow_import=allow_import).eval()
    if artifact.read_plan(folder) is None:
        return {"dense": model}
    trained = folder / DENSE
    if trained.is_dir():
        dense = artifact.load(trained, allow_import=allow_import)
    else:
        dense = artifact.dense(folder, allow_import=allow_import)
    return {"dense": dense.eval(), "pruned": model}


def _ranges(folder: Path, names: Iterable[str]) -> dict[str, dict[str, Range]]:
    """The ranges from quantisation-aware training, by variant; variants without that training are left out."""
    *dense_variants, artifact_variant = names
    places = {artifact_variant: folder, **dict.fromkeys(dense_variants, folder / DENSE)}
    learned = {name: learned_ranges(path) for name, path in places.items() if path == folder or path.is_dir()}
    return {name: ranges for name, ranges in learned.items() if ranges is not None}


def _inputs(folder: Path, input_shape: tuple[int, ...] | None, *, batch: int, seed: int) -> Tensor:
    shape = input_shape or artifact.Artifact.open(folder).source.input_shape
    if shape is None:
        raise ArtifactError(f"{folder} does not say what its model takes. Give its shape, such as 3x224x224 (--input)")
    return example_inputs(shape, batch=batch, seed=seed)
