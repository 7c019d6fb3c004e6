"""Training an artifact: it goes from untrained to trained in one step; until then a checkpoint lies beside it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from reconvene import artifact
from reconvene.artifact import FoundRate, Recalibrated, Teacher, Timings, Training
from reconvene.data import Dataset
from reconvene.errors import TrainingError
from reconvene.surgery import Plan
from reconvene.tasks import Evaluation, task_named
from reconvene.training import Distillation, TrainConfig, TrainResult, evaluate_split, train_model
from reconvene.training.checkpoint import CHECKPOINT_NAME, differences
from reconvene.training.frozen_bits import FrozenBits, keep_ranges
from reconvene.utils.locks import alone_in
from reconvene.utils.progress import ProgressOption, is_first_process, listening, note, stage
from reconvene.workflow.inputs import DataLike, dataset_for
from reconvene.workflow.origin import DENSE, stored_variants
from reconvene.workflow.pictures import write_pictures
from reconvene.workflow.recipes import usual_recipe

OF_THE_WEIGHTS = ("exports", "assessment", "safety", "synops", "ranges", "refused", "compiled")
"""Sections that no longer hold when the weights change."""


@dataclass(frozen=True)
class Lesson:
    """How to learn from a teacher: see ``reconvene.training.Distillation``."""

    teacher: Path | None = None
    """Artifact of the teacher. None: the dense network in ``DIR/dense``, trained by the same recipe if it is not."""
    temperature: float = 4.0
    weight: float = 0.5
    features: float = 0.0

    def from_(self, model: nn.Module, plan: Plan | None) -> Distillation:
        """Take the lesson from ``model``, for a student that was pruned by ``plan``."""
        pruned_by: Plan | None = getattr(model, "reconvene_plan", None)
        return Distillation(model, self.temperature, self.weight, self.features, plan, pruned_by)


def train(
    directory: str | Path,
    data: DataLike,
    *,
    epochs: int = 5,
    config: TrainConfig | None = None,
    lesson: Lesson | None = None,
    again: bool = False,
    resume: bool = True,
    allow_import: bool = False,
    description: str = "training",
    progress: ProgressOption = None,
) -> Training:
    """Train the model of an artifact and keep the trained weights, and what was measured, in it.

    The artifact keeps its untrained weights until training has finished. A run that was stopped goes on from its
    checkpoint when called again with the same arguments, and a finished one returns what it found at once.

    Where the artifact's plan has bits, weights and what layers read are rounded as in its file, and what was measured
    is of the rounded network.

    Args:
        directory: of the artifact.
        data: a data set of ``reconvene.data``, or what names one: ``digits``, a folder of images, parquet, a hub id.
        epochs: passes over the training images.
        config: the recipe: batch size, learning rate, augmentation, seed, ... By default ``TrainConfig()``, and where
            trained weights were kept the end of its schedule, which they survive.
        lesson: learn from a teacher, too.
        again: train a trained artifact on, from its trained weights.
        resume: go on from a checkpoint where there is one; otherwise start over.
        allow_import: let a model of your own be imported, which runs its code.
        description: what progress calls it.
        progress: as for ``rc.plan``.

    Raises TrainingError: among others, when the artifact was trained in another way already and ``again`` is not set.

    >>> import tempfile
    >>> import torch
    >>> import reconvene as rc
    >>> from reconvene.data import load_data
    >>> from reconvene.models import MODELS
    >>> small = rc.prune(MODELS["resnet20"](width=0.25), torch.randn(1, 3, 32, 32), rc.Budget(params="2x"))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     rc.save(small, folder)
    ...     result = rc.train(folder, load_data("digits", limit=60), epochs=1, config=rc.TrainConfig(lr=0.05))
    >>> result.epochs, 0 <= result.score <= 1
    (1, True)
    """
    folder = Path(directory)
    with listening(progress), alone_in(folder, error=TrainingError):
        dataset = dataset_for(folder, data)
        config = usual_recipe(folder, epochs) if config is None else config
        return _trained(
            folder,
            dataset,
            epochs=epochs,
            config=config,
            lesson=lesson,
            again=again,
            resume=resume,
            allow_import=allow_import,
            description=description,
        )


def _trained(
    folder: Path,
    dataset: Dataset,
    *,
    epochs: int,
    config: TrainConfig,
    lesson: Lesson | None,
    again: bool,
    resume: bool,
    allow_import: bool,
    description: str,
) -> Training:
    """``train``, with the data at hand."""
    task_named(dataset.task.name)  # an artifact names it: what is not registered is said before hours of training
    recipe = recipe_of(dataset, epochs, config)
    plan = artifact.read_plan(folder)
    bits = None if plan is None else plan.bits
    if bits is not None:
        recipe["rounded"] = True  # by the plan of the artifact itself
    earlier = None if again else artifact.Artifact.open(folder).timed_training
    if earlier is not None:
        teacher_now, teacher_then = bool(lesson), bool(earlier.asked.get("distillation"))
        now, then = {**recipe, "distillation": teacher_now}, {**earlier.asked, "distillation": teacher_then}
        if now != then:
            raise trained_already(folder, now, then)
    distillation = None
    if lesson is not None:
        lesson.from_(nn.Identity(), None).check(config)  # before a teacher is trained for hours
        teacher = _teacher(
            folder, lesson, dataset, epochs=epochs, config=config, resume=resume, allow_import=allow_import
        )
        distillation = lesson.from_(artifact.load(teacher, allow_import=allow_import), plan)
        recipe["distillation"] = distillation.to_dict()
    if earlier is not None:
        if earlier.asked != recipe:
            raise trained_already(folder, recipe, earlier.asked)
        return earlier
    model = artifact.load(folder, allow_import=allow_import)
    with stage(description):
        result = train_model(
            model,
            dataset,
            epochs=epochs,
            directory=folder,
            config=config,
            distillation=distillation,
            quantising=None if bits is None else FrozenBits(bits),
            resume=resume,
        )
    if bits is not None:
        keep_ranges(model, result.ranges or {})
    taught_by = None
    if distillation is not None:
        score = evaluate_split(distillation.teacher, dataset).score
        taught_by = Teacher(artifact.Artifact.open(teacher).source.address, score)
    training = training_record(dataset, epochs, result, recipe, taught_by)
    keep_trained(folder, model, training, preprocessing=dataset.preprocessing.to_dict())
    return training


def training_record(
    dataset: Dataset, epochs: int, result: TrainResult, recipe: dict[str, Any], taught_by: Teacher | None
) -> Training:
    """What an artifact keeps of a training that has ended."""
    training = Training(
        epochs,
        str(dataset),
        {},
        0.0,
        recipe,
        task=dataset.task.name,
        seconds=result.seconds,
        teacher=taught_by,
        examples=len(dataset.train),
    )
    return with_evaluation(training, result.evaluation, result)


def with_evaluation(training: Training, evaluation: Evaluation, result: TrainResult) -> Training:
    """``training`` with what an evaluation says of the weights that a run ended with."""
    return replace(
        training,
        metrics=evaluation.metrics,
        loss=evaluation.loss,
        parts=evaluation.parts,
        recalibration=recalibrated(result),
        found_rate=None
        if result.rate_test is None
        else FoundRate(result.rate_test.rate, len(result.rate_test.rates), result.rate_test.seconds),
        warning=evaluation.warning,
    )


def recalibrated(result: TrainResult) -> Recalibrated | None:
    """What an artifact keeps of a recalibration of norm statistics; None where they did not lag."""
    return None if result.recalibration is None else Recalibrated(**result.recalibration)


def keep_trained(folder: Path, model: nn.Module, training: Training, **sections: Any) -> None:
    """Put trained weights, and ``sections`` about them, into the artifact; those about the earlier weights go."""
    if not is_first_process():  # under torchrun every process comes here, one of them writes
        return
    stored = artifact.Artifact.open(folder)
    measurements = {name: value for name, value in stored.measurements.items() if name not in OF_THE_WEIGHTS}
    timings = Timings.of(training, pruning=stored.timings.pruning)
    _remove_exports(stored)  # before: a process that is killed in between leaves no file with weights of before
    artifact.save(model, folder, extra={**measurements, "training": training.untimed(), **sections}, timings=timings)
    (folder / CHECKPOINT_NAME).unlink(missing_ok=True)  # what it was for is in the artifact now
    write_pictures(folder, None)  # what earlier weights predicted


def _remove_exports(stored: artifact.Artifact) -> None:
    """Remove files that hold earlier weights of the artifact's network: nobody would see that they are old."""
    own = "dense" if artifact.read_plan(stored.folder) is None else "pruned"  # its plan may be another one now
    old = [name for export in stored.exports if export.variant == own for name in (export.file, *export.files)]
    gone = [name for name in dict.fromkeys(old) if (stored.folder / name).is_file()]
    for name in gone:
        (stored.folder / name).unlink()
    if gone:
        note(f"removed, since they hold the weights of before: {', '.join(gone)}. Export again")


def not_itself(folder: Path, teacher: Path) -> Path:
    """The teacher's folder. Raises TrainingError where that is the student's."""
    if teacher.resolve() == folder.resolve():
        raise TrainingError(f"{folder} cannot teach itself. Name another artifact (--teacher DIR)")
    return teacher


def _teacher(
    folder: Path,
    lesson: Lesson,
    dataset: Dataset,
    *,
    epochs: int,
    config: TrainConfig,
    resume: bool,
    allow_import: bool,
) -> Path:
    """The artifact of the teacher. Without one the dense network is trained, unless it was already, in whatever way."""
    if lesson.teacher is not None:
        if not artifact.Artifact.open(lesson.teacher).is_trained:
            note(
                f"the teacher {lesson.teacher} has no record of a training: an untrained one teaches noise. If it was "
                "trained in a loop of your own, say so when you save it: rc.save(model, folder, trained=True)"
            )
        return not_itself(folder, lesson.teacher)
    if artifact.read_plan(folder) is None:
        raise TrainingError(f"{folder} holds a dense network: say which artifact teaches it (--teacher DIR)")
    teacher = folder / DENSE
    is_artifact = (teacher / artifact.MANIFEST).exists()
    if not is_artifact or not artifact.Artifact.open(teacher).is_trained:
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:  # several processes would write it at once
            raise TrainingError(
                f"{teacher} is not trained yet. Under torchrun, train the teacher first (--teacher DIR)"
            )
        if not is_artifact:
            artifact.save(artifact.dense(folder, allow_import=allow_import), teacher)
        description = "training the dense teacher"
        train(
            teacher,
            dataset,
            epochs=epochs,
            config=config,
            resume=resume,
            allow_import=allow_import,
            description=description,
        )
    return teacher


def training_warnings(directory: str | Path) -> dict[str, str]:
    """Why the trained networks of an artifact are hardly trained, by variant; empty where nothing speaks against them.

    What agrees with such a network shows nothing: an int8 file of one that answers one class agrees in every answer.
    """
    folder = Path(directory)
    artifacts = stored_variants(folder)
    trainings = {variant: stored.training for variant, stored in artifacts.items()}
    as_cut = list(artifacts.values())[-1].as_cut  # of the folder itself, which is the last
    warnings = {name: text for name, text in (as_cut.warnings if as_cut else {}).items() if not trainings.get(name)}
    warnings |= {name: training.warning for name, training in trainings.items() if training and training.warning}
    return warnings


def trained_already(
    folder: Path, recipe: Mapping[str, Any], earlier: Mapping[str, Any], how: str = ""
) -> TrainingError:
    """The error for an artifact that is asked to be trained in another way than it was."""
    different = differences(recipe, earlier)
    return TrainingError(
        f"{folder} was trained{how} already, with other settings: {different}. Repeat the earlier call, or train "
        "on from its weights: again=True (--again)"
    )


def recipe_of(dataset: Dataset, epochs: int, config: TrainConfig) -> dict[str, Any]:
    """The values that identify a training, without its teacher. The checkpoint interval is not among them."""
    pixels = {"pixels": dataset.sha256, **dataset.given_normalisation}
    return {"epochs": epochs, **pixels, **dataset.task.identity(), **config.identity()}
