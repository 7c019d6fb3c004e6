"""Exporting an artifact, with the dense network beside it, and timing both in the same run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor, nn

from reconvene import artifact
from reconvene.artifact import write_atomic
from reconvene.data import Dataset, test_batches
from reconvene.deploy import BenchResult, Exported
from reconvene.deploy import bench as bench_variants
from reconvene.deploy import export as export_file
from reconvene.errors import ArtifactError
from reconvene.models import example_inputs
from reconvene.pipeline.prune import BENCH, DENSE
from reconvene.pipeline.steps import Steps, quiet


def export(
    directory: str | Path,
    *,
    formats: Sequence[str] = ("onnx",),
    dataset: Dataset | None = None,
    with_dense: bool = False,
    input_shape: tuple[int, ...] | None = None,
    seed: int = 0,
    allow_import: bool = False,
    steps: Steps = quiet,
) -> dict[str, list[Exported]]:
    """Export the model of an artifact into its folder and verify it: ``model.onnx``. Returns exports by variant.

    Args:
        formats: what ``reconvene.deploy.FORMATS`` knows.
        dataset: whose test images the export is verified on; without it, seeded noise.
        with_dense: also the dense network it is compared with, as ``dense.onnx``.
        input_shape: of one example; by default what the artifact says.

    Raises UnknownNameError, MissingExtraError, ExportError, VerificationError, ArtifactError.
    """
    folder = Path(directory)
    inputs = _inputs(folder, input_shape, batch=2, seed=seed)
    models = variants(folder, allow_import=allow_import)
    own = list(models)[-1]  # what the artifact itself holds
    found: dict[str, list[Exported]] = {}
    for variant, model in models.items():
        if variant != own and not with_dense:
            continue
        name = "model" if variant == own else variant
        for kind in formats:
            with steps(f"exporting {name}.{kind} and verifying it", False):
                data = None if dataset is None else test_batches(dataset, batch_size=32)
                made = export_file(model, folder, format=kind, example_inputs=inputs, name=name, data=data, seed=seed)
            found.setdefault(variant, []).append(made)
    rows = [{"variant": variant, **made.to_dict()} for variant, exports in found.items() for made in exports]
    artifact.record(folder, {"exports": rows})
    return found


def bench(
    directory: str | Path,
    *,
    runtimes: Sequence[str] = ("onnxruntime", "eager"),
    batch: int = 1,
    input_shape: tuple[int, ...] | None = None,
    threads: int = 1,
    repeats: int = 30,
    seed: int = 0,
    allow_import: bool = False,
    steps: Steps = quiet,
) -> BenchResult:
    """Time dense beside pruned, in each runtime, interleaved; kept as ``bench.json``.

    Raises UnknownNameError, MissingExtraError, ExportError, ArtifactError.
    """
    folder = Path(directory)
    inputs = _inputs(folder, input_shape, batch=batch, seed=seed)
    models = variants(folder, allow_import=allow_import)
    with steps(f"timing {' beside '.join(models)} in {', '.join(runtimes)}", False):
        result = bench_variants(models, inputs, runtimes=runtimes, threads=threads, repeats=repeats, seed=seed)
    write_atomic(folder / BENCH, (result.to_json() + "\n").encode())
    return result


def variants(folder: Path, *, allow_import: bool) -> dict[str, nn.Module]:
    """``dense`` (trained, where there is one) and then ``pruned``, in eval mode; a dense artifact is ``dense`` alone.

    Raises ArtifactError.
    """
    model = artifact.load(folder, allow_import=allow_import).eval()
    if artifact.read_plan(folder) is None:
        return {"dense": model}
    trained = folder / DENSE
    if trained.is_dir():
        dense = artifact.load(trained, allow_import=allow_import)
    else:
        dense = artifact.dense(folder, allow_import=allow_import)
    return {"dense": dense.eval(), "pruned": model}


def _inputs(folder: Path, input_shape: tuple[int, ...] | None, *, batch: int, seed: int) -> Tensor:
    shape = input_shape or artifact.manifest(folder).source.input_shape
    if shape is None:
        raise ArtifactError(f"{folder} does not say what its model takes. Give its shape, such as 3x224x224 (--input)")
    return example_inputs(shape, batch=batch, seed=seed)
