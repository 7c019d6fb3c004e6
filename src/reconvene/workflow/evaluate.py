"""What a trained artifact is worth, beside the dense network it was made from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from torch import nn

from reconvene import artifact
from reconvene.data import Dataset
from reconvene.errors import ArtifactError
from reconvene.tasks import Assessment
from reconvene.training.assess import assess, predict
from reconvene.utils.progress import stage
from reconvene.workflow.bundle import preparation
from reconvene.workflow.deploy import variants
from reconvene.workflow.pictures import draw, keep
from reconvene.workflow.prune import DENSE


def evaluate(
    directory: str | Path,
    dataset: Dataset,
    *,
    corruptions: bool = False,
    seed: int = 0,
    allow_import: bool = False,
) -> dict[str, Assessment]:
    """Assess the trained networks of an artifact, by variant, and keep the result in it, with pictures of predictions.

    The dense network takes part where it was trained too (``reconvene run`` does that). Images are normalised as those
    it was trained on, whichever part of them ``dataset`` holds.

    Raises ArtifactError, where nothing was trained among others, DataError where the classes are others than those it
    was trained on, and TrainingError.
    """
    folder = Path(directory)
    models, dataset = trained_variants(folder, dataset, allow_import=allow_import)
    dense = None
    assessments: dict[str, Assessment] = {}
    for name, model in models.items():
        with stage(f"evaluating {name}"):
            if name == "dense" and len(models) > 1:
                dense = predict(model, dataset)
            assessments[name] = assess(
                model,
                dataset,
                dense=None if name == "dense" else dense,
                corruptions=corruptions,
                seed=seed,
            )
    keep(folder, draw(models, dataset))
    artifact.add_measurements(
        folder, {"assessment": {name: assessment.to_dict() for name, assessment in assessments.items()}}
    )
    return assessments


def trained_variants(folder: Path, dataset: Dataset, *, allow_import: bool) -> tuple[dict[str, nn.Module], Dataset]:
    """The trained networks of an artifact, by variant, and the data normalised as in training. Raises as above."""
    trained = [name for name, variant_folder in _places(folder).items() if _is_trained(variant_folder)]
    if not trained:
        raise ArtifactError(f"{folder} holds no trained network. Train it first: reconvene train {folder}")
    variant_folder = _places(folder)[trained[-1]]
    preprocessing = preparation(artifact.Artifact.open(variant_folder), dataset)
    models = {name: m for name, m in variants(folder, allow_import=allow_import).items() if name in trained}
    return models, replace(dataset, mean=preprocessing.mean, std=preprocessing.std)


def _places(folder: Path) -> dict[str, Path]:
    if artifact.read_plan(folder) is None:
        return {"dense": folder}
    return {"dense": folder / DENSE, "pruned": folder}


def _is_trained(path: Path) -> bool:
    return (path / artifact.MANIFEST).exists() and artifact.Artifact.open(path).training is not None
