"""What a trained artifact is worth, beside the dense network it was made from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from reconvene import artifact
from reconvene.data import Dataset
from reconvene.deploy.planned import as_file_computes
from reconvene.errors import ArtifactError
from reconvene.tasks import Assessment
from reconvene.training import evaluate_split
from reconvene.training.assess import assess, predict, test_synops
from reconvene.utils.progress import ProgressOption, listening, stage
from reconvene.workflow.inputs import DataLike, dataset_for, preparation
from reconvene.workflow.origin import stored_variants
from reconvene.workflow.pictures import draw_predictions, write_pictures
from reconvene.workflow.variants import variants


def evaluate(
    directory: str | Path,
    data: DataLike = "digits",
    *,
    corruptions: bool = False,
    seed: int = 0,
    allow_import: bool = False,
    progress: ProgressOption = None,
) -> dict[str, Assessment]:
    """Assess the trained networks of an artifact, by variant, and keep the result in it, with pictures of predictions.

    Of spiking networks the synaptic operations on test images are kept too.

    Trained are networks whose weights were trained here or elsewhere, or kept when channels left them. The dense
    network takes part where it was trained too (``reconvene run`` does that). Of a network whose plan has bits the
    rounded one is assessed, as its file computes it. Images are normalised as those it was trained on, whichever part
    of them ``data`` holds.

    Args:
        directory: of the artifact.
        data: as for ``rc.train``.
        corruptions: whether to corrupt the test images too, which takes twelve more rounds over them.
        seed: of the corruptions' noise.
        allow_import: let a model of your own be imported, which runs its code.
        progress: as for ``rc.plan``.

    Raises ArtifactError, where nothing was trained among others, DataError where the classes are others than those it
    was trained on, and TrainingError.

    >>> import tempfile
    >>> import torch
    >>> import reconvene as rc
    >>> from reconvene.data import load_data
    >>> from reconvene.models import MODELS
    >>> digits = load_data("digits", limit=60)
    >>> small = rc.prune(MODELS["resnet20"](width=0.25), torch.randn(1, 3, 32, 32), rc.Budget(params="2x"))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     rc.save(small, folder)
    ...     _ = rc.train(folder, digits, epochs=1)
    ...     assessments = rc.evaluate(folder, digits)
    >>> list(assessments), assessments["pruned"].count
    (['pruned'], 60)
    """
    folder = Path(directory)
    with listening(progress):
        models, dataset = trained_variants(folder, dataset_for(folder, data), allow_import=allow_import)
        assessments = _assessed(models, dataset, corruptions=corruptions, seed=seed)
        write_pictures(folder, draw_predictions(models, dataset))
        counts = {name: test_synops(model, dataset) for name, model in models.items()}
    sections: dict[str, Any] = {"assessment": {name: assessment.to_dict() for name, assessment in assessments.items()}}
    if artifact.Artifact.open(folder).preprocessing is None:  # outputs mean what this task says, here and in the report
        sections["preprocessing"] = dataset.preprocessing.to_dict()
    sections["synops"] = {name: count.to_dict() for name, count in counts.items() if count is not None}
    artifact.add_measurements(folder, sections)
    return assessments


def _assessed(models: dict[str, nn.Module], dataset: Dataset, *, corruptions: bool, seed: int) -> dict[str, Assessment]:
    """Each network, all but the dense one beside it."""
    dense = None
    assessments: dict[str, Assessment] = {}
    for name, model in models.items():
        with stage(f"evaluating {name}"):
            if name == "dense" and len(models) > 1:
                dense = predict(model, dataset)
            beside = None if name == "dense" else dense
            assessments[name] = assess(model, dataset, dense=beside, corruptions=corruptions, seed=seed)
    return assessments


def trained_variants(folder: Path, dataset: Dataset, *, allow_import: bool) -> tuple[dict[str, nn.Module], Dataset]:
    """The trained networks of an artifact, by variant, and the data normalised as in training. Raises as above.

    Networks whose plan has bits are rounded as in their files.
    """
    trained = {name: stored for name, stored in stored_variants(folder).items() if stored.is_trained}
    if not trained:
        raise ArtifactError(
            f"{folder} holds no trained network. Train it first: reconvene train {folder}. If it was trained in a loop "
            "of your own, say so when you save it: rc.save(model, folder, trained=True)"
        )
    preprocessing = preparation(list(trained.values())[-1], dataset)  # the pruned one's, where it is trained
    dataset = replace(dataset, mean=preprocessing.mean, std=preprocessing.std)
    models = {name: m for name, m in variants(folder, allow_import=allow_import).items() if name in trained}
    return {name: as_file_computes(model, dataset) for name, model in models.items()}, dataset


def judge_cut(directory: str | Path, data: DataLike, *, allow_import: bool = False) -> artifact.AsCut:
    """Judge a trained network and what was kept of it on the test images, and keep the result in the artifact.

    Raises as ``evaluate``.
    """
    folder = Path(directory)
    models, dataset = trained_variants(folder, dataset_for(folder, data), allow_import=allow_import)
    evaluations = {name: evaluate_split(model, dataset) for name, model in models.items()}
    as_cut = artifact.AsCut(
        dataset.task.name,
        str(dataset),
        {name: evaluation.score for name, evaluation in evaluations.items()},
        {name: evaluation.warning for name, evaluation in evaluations.items() if evaluation.warning is not None},
    )
    sections: dict[str, Any] = {"as_cut": as_cut}
    if artifact.Artifact.open(folder).preprocessing is None:  # the layers were repaired on images prepared like this
        sections["preprocessing"] = dataset.preprocessing.to_dict()
    artifact.add_measurements(folder, sections)
    return as_cut
