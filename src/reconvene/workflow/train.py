"""Training an artifact: it goes from untrained to trained in one step; until then a checkpoint lies beside it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from reconvene import artifact
from reconvene.data import Dataset
from reconvene.errors import TrainingError
from reconvene.surgery import Plan
from reconvene.tasks import DEFAULT, Evaluation, task_named, training_record
from reconvene.training import Distillation, TrainConfig, evaluate
from reconvene.training import train as train_model
from reconvene.training.checkpoint import CHECKPOINT_NAME
from reconvene.workflow.prune import DENSE, PREPROCESSING
from reconvene.workflow.steps import Steps, quiet

RANGES = "ranges"
"""Measurement that holds what quantisation-aware training learned of ranges."""
OF_THE_WEIGHTS = ("exports", "assessment", RANGES)
"""Measurements that no longer hold when the weights change."""


@dataclass(frozen=True)
class Training:
    """What came out of training: ``metrics`` and ``loss`` on the test split; ``seconds`` of all parts."""

    epochs: int
    dataset: str
    metrics: dict[str, float]
    """By name, the headline of the task first."""
    loss: float
    seconds: float
    asked: dict[str, Any]
    parts: dict[str, float] = field(default_factory=dict)
    """The headline by part of the data: of a classifier by class."""
    task: str = DEFAULT.name
    teacher: dict[str, Any] | None = None
    """Where it learned from a teacher: the teacher's ``model`` and its ``score`` on the same test split."""
    examples: int | None = None
    """Training images of an epoch."""
    quantised: dict[str, Any] | None = None
    """Where it was trained on quantisation-aware: see ``reconvene.workflow.qat``; the numbers above are then of what
    came out of that, in float32."""
    recalibration: dict[str, Any] | None = None
    """Where norm statistics lagged at the end and were taken anew: see ``reconvene.training.statistics``."""
    warning: str | None = None
    """Why this is hardly a trained network, in words of the task."""

    @classmethod
    def of(cls, dataset: Dataset, epochs: int, evaluation: Evaluation, asked: dict[str, Any], **facts: Any) -> Training:
        """What an evaluation after ``epochs`` says."""
        return cls(
            epochs,
            str(dataset),
            evaluation.metrics,
            evaluation.loss,
            asked=asked,
            parts=evaluation.parts,
            task=dataset.task.name,
            examples=len(dataset.train),
            warning=evaluation.warning,
            **facts,
        )

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Training:
        """Read what an artifact says, of whatever release."""
        return cls(**training_record(record))

    @property
    def score(self) -> float:
        """The headline of the task."""
        return next(iter(self.metrics.values()))

    @property
    def headline(self) -> str:
        """The name of the metric that ``score`` is."""
        return next(iter(self.metrics))

    def show(self, score: float) -> str:
        """A score as people read it."""
        return task_named(self.task).show(score)

    def __str__(self) -> str:
        notes = [self._text()]
        if self.recalibration is not None:
            notes.append(recalibrated_text(self.recalibration))
        if self.warning is not None:
            notes.append(f"warning: {self.warning}")
        return "\n".join(notes)

    def _text(self) -> str:
        text = self._plain()
        if self.quantised is None:
            return text
        qat = self.quantised
        rounds = f"{qat['epochs']} {'epoch' if qat['epochs'] == 1 else 'epochs'}"
        rounded, before = self.show(qat["score"]), self.show(qat["before"])
        return (
            f"{text}\nthen {rounds} quantisation-aware in {qat['seconds']:.1f} s: {self.headline} {rounded} with every "
            f"rounding of int8 (before, in float32: {before})"
        )

    def _plain(self) -> str:
        headline = f"{self.headline} {self.show(self.score)}"
        others = [f"{name} {value:.4g}" for name, value in self.metrics.items() if name != self.headline]
        text = (
            f"{self.epochs} {'epoch' if self.epochs == 1 else 'epochs'} on {self.dataset} in {self.seconds:.1f} s: "
            f"{', '.join([headline, *others])}, loss {self.loss:.4f} on the test images"
        )
        if self.teacher is None:
            return text
        return f"{text}, taught by {self.teacher['model']} with {self.headline} {self.show(self.teacher['score'])}"


def recalibrated_text(recalibration: Mapping[str, Any]) -> str:
    """A sentence on a recalibration of norm statistics."""
    before = "not finite" if recalibration["loss_before"] is None else f"{recalibration['loss_before']:.3g}"
    return (
        f"the statistics of {recalibration['layers']} norms lagged behind the weights and were taken anew from "
        f"{recalibration['images']} training images in {recalibration['seconds']:.1f} s: loss on them {before} before, "
        f"{recalibration['loss_after']:.3g} after"
    )


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
        return Distillation(model, self.temperature, self.weight, self.features, plan)


def train(
    directory: str | Path,
    dataset: Dataset,
    *,
    epochs: int,
    config: TrainConfig = TrainConfig(),  # noqa: B008  # frozen
    lesson: Lesson | None = None,
    again: bool = False,
    resume: bool = True,
    allow_import: bool = False,
    description: str = "training",
    steps: Steps = quiet,
) -> Training:
    """Train the model of an artifact on ``dataset`` and keep the trained weights and what was measured in it.

    The artifact keeps its untrained weights until training has finished. A run that was stopped goes on from its
    checkpoint when called again with the same arguments, and a finished one returns what it found at once.

    Args:
        lesson: learn from a teacher, too.
        again: train a trained artifact on, from its trained weights.
        resume: go on from a checkpoint where there is one; otherwise start over.

    Raises TrainingError: among others, when the artifact was trained in another way already and ``again`` is not set.
    """
    folder = Path(directory)
    task_named(dataset.task.name)  # an artifact names it: what is not registered is said before hours of training
    recipe = recipe_of(dataset, epochs, config)
    earlier = None if again else artifact.manifest(folder).measurements.get("training")
    if earlier is not None:
        taught = earlier["asked"].get("distillation")
        if {**earlier["asked"], "distillation": None} != {**recipe, "distillation": None} or bool(taught) != bool(
            lesson
        ):
            raise _trained_already(folder, earlier)
    distillation = None
    if lesson is not None:
        lesson.from_(nn.Identity(), None).check(config)  # before a teacher is trained for hours
        teacher = _teacher(
            folder, lesson, dataset, epochs=epochs, config=config, allow_import=allow_import, steps=steps
        )
        distillation = lesson.from_(artifact.load(teacher, allow_import=allow_import), artifact.read_plan(folder))
        recipe["distillation"] = distillation.to_dict()
    if earlier is not None:
        if earlier["asked"] != recipe:
            raise _trained_already(folder, earlier)
        return Training.from_dict(earlier)
    model = artifact.load(folder, allow_import=allow_import)
    with steps(description, True):
        result = train_model(
            model,
            dataset,
            epochs=epochs,
            directory=folder,
            config=config,
            distillation=distillation,
            resume=resume,
            progress=steps is not quiet,
        )
    teacher_record = None
    if distillation is not None:
        score = evaluate(distillation.teacher, dataset).score
        teacher_record = {"model": artifact.manifest(teacher).source.address, "score": score}
    training = Training.of(
        dataset,
        epochs,
        result.evaluation,
        recipe,
        seconds=result.seconds,
        teacher=teacher_record,
        recalibration=result.recalibration,
    )
    keep_trained(folder, model, {"training": asdict(training), PREPROCESSING: dataset.preprocessing.to_dict()})
    return training


def keep_trained(folder: Path, model: nn.Module, measurements: Mapping[str, Any]) -> None:
    """Put trained weights and their measurements into the artifact; measurements of the earlier weights are removed."""
    if int(os.environ.get("RANK", "0")) != 0:  # under torchrun every process comes here, one of them writes
        return
    before = dict(artifact.manifest(folder).measurements)
    for of_other_weights in OF_THE_WEIGHTS:
        before.pop(of_other_weights, None)
    artifact.save(model, folder, extra={**before, **measurements})
    (folder / CHECKPOINT_NAME).unlink(missing_ok=True)  # what it was for is in the artifact now


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
    allow_import: bool,
    steps: Steps,
) -> Path:
    """The artifact of the teacher. Without one the dense network is trained, unless it was already, in whatever way."""
    if lesson.teacher is not None:
        return not_itself(folder, lesson.teacher)
    if artifact.read_plan(folder) is None:
        raise TrainingError(f"{folder} holds a dense network: say which artifact teaches it (--teacher DIR)")
    teacher = folder / DENSE
    there = (teacher / artifact.MANIFEST).exists()
    if not there or "training" not in artifact.manifest(teacher).measurements:
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:  # several processes would write it at once
            raise TrainingError(
                f"{teacher} is not trained yet. Under torchrun, train the teacher first (--teacher DIR)"
            )
        if not there:
            artifact.save(artifact.dense(folder, allow_import=allow_import), teacher)
        description = "training the dense teacher"
        train(
            teacher,
            dataset,
            epochs=epochs,
            config=config,
            allow_import=allow_import,
            description=description,
            steps=steps,
        )
    return teacher


def training_warnings(directory: str | Path) -> dict[str, str]:
    """Why the trained networks of an artifact are hardly trained, by variant; empty where nothing speaks against them.

    What agrees with such a network shows nothing: an int8 file of one that answers one class agrees in every answer.
    """
    folder = Path(directory)
    pruned = artifact.read_plan(folder) is not None
    places = {"dense": folder / DENSE, "pruned": folder} if pruned else {"dense": folder}
    warnings = {
        variant: artifact.manifest(path).measurements.get("training", {}).get("warning")
        for variant, path in places.items()
        if (path / artifact.MANIFEST).exists()
    }
    return {variant: warning for variant, warning in warnings.items() if warning is not None}


def _trained_already(folder: Path, earlier: Mapping[str, Any]) -> TrainingError:
    taught = " with a teacher" if earlier.get("teacher") else ""
    return TrainingError(
        f"{folder} was trained already, for {earlier['epochs']} epochs on {earlier['dataset']}{taught}. "
        "To train on from its weights: again=True (--again)"
    )


def recipe_of(dataset: Dataset, epochs: int, config: TrainConfig) -> dict[str, Any]:
    """What makes a training run this one, but for its teacher. How often it saves does not."""
    recipe = asdict(config)
    del recipe["checkpoint_seconds"]
    return {"epochs": epochs, "pixels": dataset.sha256, **dataset.task.identity(), **recipe}
