"""What an artifact says of the training of its network; one section of the manifest."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import Annotated

from pydantic import AfterValidator, AliasChoices, Field

from reconvene.errors import ArtifactError
from reconvene.tasks import DEFAULT, task_named
from reconvene.utils.schema import Count, Name, NonNegative, Number, Plain, Seconds, Share, Text, opened

_Score = Annotated[Number, Field(validation_alias=AliasChoices("score", DEFAULT.headline))]
"""Of a task; ``accuracy`` where a release wrote it that knew classification alone."""


@opened
@dataclass(frozen=True)
class Teacher:
    """The teacher of a network: its address, and its headline metric on the same test split."""

    model: Text
    score: _Score


@opened
@dataclass(frozen=True)
class Recalibrated:
    """Norm statistics that lagged and were taken anew: see ``reconvene.training.statistics``."""

    layers: Count
    images: Count
    loss_before: Number | None
    loss_after: Number
    seconds: Seconds | None = None

    def __str__(self) -> str:
        before = "not finite" if self.loss_before is None else f"{self.loss_before:.3g}"
        return (
            f"the statistics of {self.layers} norms lagged behind the weights and were taken anew from "
            f"{self.images} training images{_took(self.seconds)}: loss on them {before} before, "
            f"{self.loss_after:.3g} after"
        )


@opened
@dataclass(frozen=True)
class FoundRate:
    """A learning rate that was left to a range test: see ``reconvene.training.rate_test``."""

    rate: NonNegative
    steps: Count
    seconds: Seconds | None = None

    def __str__(self) -> str:
        return f"learning rate {self.rate:.3g}, found by {self.steps} steps of a range test{_took(self.seconds)}"


@opened
@dataclass(frozen=True)
class QuantisedTraining:
    """Epochs of quantisation-aware training: the headline with every rounding of int8, and in float32 ``before``."""

    epochs: Count
    score: _Score
    before: Number
    asked: dict[str, Plain]
    seconds: Seconds | None = None


@opened
@dataclass(frozen=True)
class Training:
    """What came out of training: ``metrics`` and ``loss`` on the test split.

    ``seconds`` of all parts, here and in its parts, are kept in ``timings.json``: a seed gives the same manifest. Those
    of an older release stand in the manifest.
    """

    epochs: Count
    dataset: Text
    metrics: Annotated[dict[Name, Number], Field(min_length=1)]
    """By name, the headline of the task among them."""
    loss: Number
    asked: dict[str, Plain] = field(default_factory=dict)
    parts: Annotated[dict[str, Number], Field(validation_alias=AliasChoices("parts", "per_class"))] = field(
        default_factory=dict
    )
    """The headline by part of the data: of a classifier by class."""
    task: Name = DEFAULT.name
    seconds: Seconds | None = None
    teacher: Teacher | None = None
    examples: Count | None = None
    """Training images of an epoch."""
    quantised: QuantisedTraining | None = None
    """Where it was trained on quantisation-aware: the numbers above are then of what came out of that, in float32."""
    recalibration: Recalibrated | None = None
    found_rate: FoundRate | None = None
    warning: Text | None = None
    """Why this is hardly a trained network, in words of the task."""

    @property
    def headline(self) -> str:
        """The name of the metric that ``score`` is. Raises UnknownNameError for a task that is not known here."""
        return task_named(self.task).headline

    @property
    def score(self) -> float:
        """The headline of the task. Raises ArtifactError where it was not measured."""
        if self.headline not in self.metrics:
            raise ArtifactError(f"the training for {self.task} says {', '.join(self.metrics)}, but no {self.headline}")
        return self.metrics[self.headline]

    def show(self, score: float) -> str:
        """A score as people read it. Raises UnknownNameError for a task that is not known here."""
        return task_named(self.task).show(score)

    def untimed(self) -> Training:
        """The same without any seconds, as the manifest keeps it."""
        quantised = None if self.quantised is None else replace(self.quantised, seconds=None)
        recalibration = None if self.recalibration is None else replace(self.recalibration, seconds=None)
        found_rate = None if self.found_rate is None else replace(self.found_rate, seconds=None)
        return replace(self, seconds=None, quantised=quantised, recalibration=recalibration, found_rate=found_rate)

    def __str__(self) -> str:
        metrics = [f"{self.headline} {self.show(self.score)}"]
        metrics += [f"{name} {value:.4g}" for name, value in self.metrics.items() if name != self.headline]
        text = (
            f"{_rounds(self.epochs)} on {self.dataset}{_took(self.seconds)}: {', '.join(metrics)}, loss "
            f"{self.loss:.4f} on the test images"
        )
        if self.teacher is not None:
            text += f", taught by {self.teacher.model} with {self.headline} {self.show(self.teacher.score)}"
        lines = [text] if self.found_rate is None else [text, str(self.found_rate)]
        if (rounded := self.quantised) is not None:
            lines.append(
                f"then {_rounds(rounded.epochs)} quantisation-aware{_took(rounded.seconds)}: {self.headline} "
                f"{self.show(rounded.score)} with every rounding of int8 (before, in float32: "
                f"{self.show(rounded.before)})"
            )
        lines += [] if self.recalibration is None else [str(self.recalibration)]
        return "\n".join(lines if self.warning is None else [*lines, f"warning: {self.warning}"])


@opened
@dataclass(frozen=True, kw_only=True)
class _TrainingOfBefore(Training):
    """As releases wrote it that knew classification alone: ``accuracy``, and ``per_class`` for ``parts``."""

    accuracy: Share
    metrics: dict[Name, Number] = field(default_factory=dict)


def _of_today(training: Training) -> Training:
    if not isinstance(training, _TrainingOfBefore):
        return training
    values = {entry.name: getattr(training, entry.name) for entry in fields(Training)}
    return Training(**{**values, "metrics": {DEFAULT.headline: training.accuracy}})


AnyTraining = Annotated[Training | _TrainingOfBefore, AfterValidator(_of_today)]
"""One in a file."""


def _rounds(epochs: int) -> str:
    return f"{epochs} {'epoch' if epochs == 1 else 'epochs'}"


def _took(seconds: float | None) -> str:
    return "" if seconds is None else f" in {seconds:.1f} s"
