"""Exporting an artifact, with the dense network beside it, and timing both in the same run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from reconvene import artifact
from reconvene.data import Calibration, Dataset, stratified_calibration, test_batches
from reconvene.deploy import BenchData, BenchResult, Exported, Limits
from reconvene.deploy import export as export_file
from reconvene.deploy import time_variants as bench_variants
from reconvene.deploy.planned import PLAN
from reconvene.deploy.runtimes.registry import format_named
from reconvene.errors import ExportError, VerificationError
from reconvene.quantiser.activations import Range
from reconvene.utils.files import write_atomic
from reconvene.utils.progress import ProgressOption, listening, stage
from reconvene.workflow.compiling import compiler_for, with_compiled
from reconvene.workflow.inputs import DataChoice, DataLike, dataset_for
from reconvene.workflow.origin import DENSE
from reconvene.workflow.prune import BENCH
from reconvene.workflow.variants import inputs_of, learned_by_variant, variants

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
        return PLAN if self.plan_bits and of_artifact else "int8"


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
    inputs = inputs_of(folder, input_shape, batch=1, seed=seed)
    models = variants(folder, allow_import=allow_import)
    artifact_variant = list(models)[-1]  # what the artifact itself holds
    chosen = list(models) if with_dense and only is None else [only or artifact_variant]
    options = form.options(folder, dataset)
    images = None if int8 is None or dataset is None else calibration_of(dataset, int8.samples, seed=seed)
    test = dataset if form.state == "fresh" else None  # data hold no state: a step that takes one is verified on noise
    export = _ArtifactExport(folder, inputs, options, int8, images, test, seed)
    compiler = None if int8 is None else compiler_for(folder, int8.chip)
    ranges = learned_by_variant(folder, models)
    by_variant: dict[str, list[Exported]] = {}
    for variant in [name for name in models if name in chosen]:
        name = "model" if variant == artifact_variant else variant
        for format_name in formats:
            exported = export.write(models[variant], name, format_name, ranges.get(variant))
            if compiler is not None and format_name == "litert":
                with stage(f"compiling {exported.path.name} for {compiler.accelerator}"):
                    exported = with_compiled(exported, compiler, folder, dense=name == DENSE)
            by_variant.setdefault(variant, []).append(exported)
    _record_exports(folder, by_variant)
    return by_variant


@dataclass(frozen=True, eq=False)
class _ArtifactExport:
    """What all files of one export of an artifact have in common: see ``export_artifact``.

    ``options``: as ``reconvene.export`` takes them. ``images``: what int8 is calibrated on. ``test``: whose test images
    files are verified on; None is seeded noise.
    """

    folder: Path
    inputs: Tensor
    options: Mapping[str, Any]
    int8: Int8 | None
    images: Calibration | None
    test: Dataset | None
    seed: int

    def write(self, model: nn.Module, name: str, format_name: str, ranges: Mapping[str, Range] | None) -> Exported:
        """Write and verify one file. The artifact keeps why a quantised one was refused, until one is not."""
        runtime = format_named(format_name)
        quantising = self._quantising(name, ranges if runtime.takes_ranges else None)
        precision = quantising.get("quantize")
        kind = format_name if precision is None else f"{format_name} in {precision}"
        with stage(f"exporting {name} to {kind} and verifying it"):
            try:
                exported = export_file(
                    model,
                    self.folder,
                    format=format_name,
                    example_inputs=self.inputs,
                    name=name,
                    data=None if self.test is None else test_batches(self.test, batch_size=32),
                    seed=self.seed,
                    **self.options,
                    **quantising,
                )
            except VerificationError as error:
                if precision is not None:
                    _note_refusal(self.folder, f"{name}.{precision}{runtime.suffix}", str(error))
                raise
            if precision is not None:
                _note_refusal(self.folder, exported.path.name, None)
        return exported

    def _quantising(self, name: str, learned: Mapping[str, Range] | None) -> dict[str, Any]:
        """The options of ``reconvene.export`` that are about int8; none for float32."""
        if self.int8 is None:
            return {}
        return {
            "quantize": self.int8.precision(of_artifact=name == "model"),
            "calibration": self.images,
            "keep_fp32": self.int8.keep_fp32,
            "limits": self.int8.limits,
            "learned": learned,
        }


def _record_exports(folder: Path, by_variant: Mapping[str, Sequence[Exported]]) -> None:
    """Keep in the artifact what was exported, and no longer how safe files of these names were: they are others now."""
    rows = [
        artifact.ExportRecord(variant=variant, **exported.to_dict())
        for variant, exports in by_variant.items()
        for exported in exports
    ]
    files = {row.file for row in rows}
    judged = artifact.Artifact.open(folder).safety
    safety = {name: result.to_dict() for name, result in judged.items() if name not in files}
    artifact.add_measurements(folder, {"exports": _with_earlier(folder, rows), "safety": safety})


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
        int8: also in int8, in every runtime that has it, calibrated on training images of ``data``; and with the bits
            of the artifact's plan, where it has some.
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
    inputs = inputs_of(folder, input_shape, batch=batch, seed=seed)
    models = variants(folder, allow_import=allow_import)
    with listening(progress):
        dataset = None if data is None else dataset_for(folder, data, DataChoice(input_shape=input_shape))
        evidence = BenchData() if dataset is None else _bench_data(folder, dataset, models, int8, seed)
        with stage(f"timing {' beside '.join(models)}"):
            result = bench_variants(
                models,
                inputs,
                runtimes=runtimes,
                precisions=("fp32",) if int8 is None else ("fp32", "int8", PLAN),
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
    return BenchData(images, test, str(test), in_float, learned_by_variant(folder, models), dataset.task.name)


def calibration_of(dataset: Dataset, samples: int, *, seed: int) -> Calibration:
    """What int8 is calibrated on: training images, every class in its proportion, in batches of 32."""
    return stratified_calibration(dataset, samples, seed=seed, batch_size=32)


def _with_earlier(folder: Path, rows: list[artifact.ExportRecord]) -> list[artifact.ExportRecord]:
    """These exports, after earlier ones whose files are still there and were not made anew."""
    new = {row.file for row in rows}
    before = artifact.Artifact.open(folder).exports
    return [row for row in before if row.file not in new and (folder / row.file).exists()] + rows
