"""Options of ``reconvene prune --trained`` that cut in steps, with tuning in between."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from tyro.conf import arg

from reconvene.cli.command import LearningOptions, UsageError, changed_options, require_at_least

if TYPE_CHECKING:
    from reconvene.workflow import Tuned

STEP_EPOCHS = 2


@dataclass(kw_only=True)
class StepOptions(LearningOptions):
    """Options that say in which steps a trained network is cut, and how it is tuned after each."""

    heading: ClassVar[str] = "how to tune after a cut (--trained)"

    steps: Annotated[int | None, arg(metavar="N")] = None
    """Cut a trained network in so many steps, tuned after each of them on --data; stopped, the same command goes on.
    Without --steps and --epochs: one cut, no tuning. With --epochs alone: one cut, then tuning."""
    epochs: Annotated[int | None, arg(metavar="N")] = None
    """Epochs of tuning after each step. They repeat the last epochs of the schedule that trained the network. By
    default 2 with --steps."""
    pace: Literal["geometric", "linear", "cubic"] | None = None
    """How fast costs fall from step to step. By default geometric: each leaves the same share of what is there."""
    floor: Annotated[float | None, arg(metavar="VALUE")] = None
    """Stop before the step whose network is worse than this (main metric of the task: accuracy, dice, ...) on the
    images of --validation, else on the test images, and keep the one before."""
    distill_weight: Annotated[float | None, arg(metavar="SHARE")] = None
    """Share of the dense network's outputs in the loss of tuning. By default 0.5."""
    temperature: float | None = None
    """What scores are divided by before both networks are compared. By default 4."""

    @property
    def in_steps(self) -> bool:
        """Whether the network is cut in steps, or tuned after one. UsageError for options that need it."""
        if self.steps is not None or self.epochs is not None:
            return True
        recipe = ("batch_size", "lr", "schedule", "optimizer", "weight_decay", "augment", "precision")
        if changed := changed_options(self, ("pace", "floor", "distill_weight", "temperature", "train_on", *recipe)):
            raise UsageError(f"{changed[0]} is about tuning after a cut. Give --steps or --epochs as well")
        return False

    def tuned(self, seed: int, base: Path | None) -> Tuned:
        """These options as the workflow takes them, for the artifact that is pruned. UsageError."""
        from reconvene.artifact import Artifact
        from reconvene.workflow import Lesson, Tuned, rewound

        steps = self.steps if self.steps is not None else 1
        epochs = self.rounds(STEP_EPOCHS)
        require_at_least(self, ("steps",))
        require_at_least(self, ("epochs",), 0)
        usual = Lesson()
        lesson = Lesson(
            temperature=usual.temperature if self.temperature is None else self.temperature,
            weight=usual.weight if self.distill_weight is None else self.distill_weight,
        )
        training = None if base is None else Artifact.open(base).training
        config = self.config(seed, rewound(training, epochs))
        return Tuned(steps, epochs, config, lesson, self.pace or "geometric", self.floor)
