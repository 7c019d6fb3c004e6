"""Quantisation-aware training of a trained artifact: a few more epochs, in which the network is rounded as in int8."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from reconvene import artifact
from reconvene.artifact import QuantisedTraining, Training
from reconvene.data import Dataset
from reconvene.deploy import QuantisationAware
from reconvene.errors import TrainingError
from reconvene.quantiser.activations import Range
from reconvene.training import Distillation, TrainConfig, evaluate_split, train_model
from reconvene.training.quantising import check_quantising
from reconvene.utils.locks import alone_in
from reconvene.utils.progress import stage
from reconvene.workflow.origin import DENSE
from reconvene.workflow.train import Lesson, keep_trained, not_itself, recipe_of, trained_already, with_evaluation

QAT_EPOCHS = 3
QAT_CONFIG = TrainConfig(lr=0.01)
"""The recipe, at a tenth of its rate, since the network is trained already."""


def train_quantised(
    directory: str | Path,
    dataset: Dataset,
    *,
    epochs: int = QAT_EPOCHS,
    config: TrainConfig = QAT_CONFIG,  # frozen
    lesson: Lesson | None = None,
    quantising: QuantisationAware = QuantisationAware(),  # noqa: B008  # frozen
    again: bool = False,
    resume: bool = True,
    allow_import: bool = False,
) -> Training:
    """Train a trained artifact on for ``epochs``, with the roundings of int8, and keep weights and ranges in it.

    The artifact stays a float32 network; exports in int8 use the ranges where the format takes them. Its ``training``
    says how good it is in float32 now, and in ``quantised`` how good with every rounding, and how good it was before.
    It resumes and repeats as ``train`` does.

    Args:
        lesson: learn from the scores of a teacher, too: of the dense network in ``DIR/dense`` unless one is named.
        again: do it once more to an artifact that it was done to.

    Raises TrainingError, among others for an artifact that is not trained, was quantised in another way, or has a plan
    of bits, with which ``train`` rounds already; ExportError for a model that torch.export cannot take;
    MissingExtraError.
    """
    folder = Path(directory)
    with alone_in(folder, error=TrainingError):
        stored = artifact.Artifact.open(folder)
        training = stored.timed_training
        if stored.plan is not None and stored.plan.bits is not None:
            raise TrainingError(
                f"{folder} has a plan of bits, and quantisation-aware training rounds everything to 8. Train with the "
                f"bits of the plan: reconvene train {folder} --again, without --qat"
            )
        if training is None:
            kept = "has trained weights, and no record of their training" if stored.is_trained else "is not trained yet"
            raise TrainingError(
                f"{folder} {kept}, from which quantisation-aware training goes on. First: reconvene train {folder}"
            )
        distillation = None if lesson is None else _distillation(folder, lesson, config, allow_import=allow_import)
        check_quantising(config, distillation)
        recipe = {**recipe_of(dataset, epochs, config), "way": quantising.to_dict()}
        recipe |= {} if distillation is None else {"distillation": distillation.to_dict()}
        earlier = None if again else training.quantised
        if earlier is not None:
            if earlier.asked != recipe:
                raise trained_already(folder, recipe, earlier.asked, " quantisation-aware")
            return training
        model = artifact.load(folder, allow_import=allow_import)
        with stage(f"training {folder} quantisation-aware"):
            result = train_model(
                model,
                dataset,
                epochs=epochs,
                directory=folder,
                config=config,
                distillation=distillation,
                quantising=quantising,
                resume=resume,
            )
        quantised = QuantisedTraining(epochs, result.score, training.score, recipe, result.seconds)
        record = replace(with_evaluation(training, evaluate_split(model, dataset), result), quantised=quantised)
        learned = {label: list(scale_and_zero) for label, scale_and_zero in (result.ranges or {}).items()}
        keep_trained(folder, model, record, ranges=learned)
        return record


def _distillation(folder: Path, lesson: Lesson, config: TrainConfig, *, allow_import: bool) -> Distillation:
    """The scores of a teacher that is there already."""
    teacher = not_itself(folder, lesson.teacher or folder / DENSE)
    if not (teacher / artifact.MANIFEST).exists() or artifact.Artifact.open(teacher).training is None:
        raise TrainingError(f"{teacher} is not a trained artifact, so it teaches nothing. Name one (--teacher DIR)")
    distillation = lesson.from_(artifact.load(teacher, allow_import=allow_import), None)
    distillation.check(config)
    return distillation


def learned_ranges(folder: Path) -> dict[str, Range] | None:
    """The ranges that an artifact's weights were trained with; None where they were not. Raises ArtifactError."""
    return artifact.Artifact.open(folder).ranges
