"""Stages that train: from the labels alone, and from a teacher as well."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Self

from torch import nn

from reconvene.artifact import Artifact
from reconvene.training import Distillation, TrainConfig
from reconvene.utils.invalid_values import Place
from reconvene.utils.settings import Positive, Settings
from reconvene.workflow.compression.stage import (
    RecipeStage,
    StageWork,
    artifact_checksums,
    copy_before,
    read_beside_recipe,
)
from reconvene.workflow.recipes import usual_recipe
from reconvene.workflow.train import Lesson, train


@dataclass(frozen=True, kw_only=True)
class TrainStage(RecipeStage):
    """Train, or train on. ``recipe``: values of ``TrainConfig`` by name; what is left out is as usual."""

    name: ClassVar[str] = "train"
    epochs: Positive = 5
    recipe: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, settings: Settings, place: Place) -> Self:
        """Values of ``TrainConfig`` stand beside the stage's own options."""
        return read_beside_recipe(cls, settings, place)

    @property
    def trains(self) -> bool:
        """True: training is all it does."""
        return True

    def lesson(self, work: StageWork) -> Lesson | None:
        """How to learn from a teacher; None: from the labels alone."""
        return None

    def carry_out(self, work: StageWork) -> None:
        """Train a copy of the network before; its artifact has that one's weights until the training is done."""
        if not copy_before(work):
            return
        train(
            work.folder,
            work.dataset,
            epochs=self.epochs,
            config=replace(self._usual(work), **{"seed": work.seed, **self.recipe}),
            lesson=self.lesson(work),
            again=True,
            allow_import=work.allow_import,
            description=f"training {work.folder.name}",
        )

    def _usual(self, work: StageWork) -> TrainConfig:
        """The usual recipe; for weights from outside the recipe, the end of it alone, since its start undoes them."""
        if work.teacher is None or work.teacher != work.artifacts[0]:
            return TrainConfig()
        return usual_recipe(work.folder, self.epochs, own_rate=bool({"lr", "schedule"} & set(self.recipe)))


@dataclass(frozen=True, kw_only=True)
class DistilStage(TrainStage):
    """Train with a teacher. ``teacher``: a stage's number (0: the source), or a folder; by default the last trained.

    ``temperature``, ``weight`` and ``features`` are those of ``reconvene.training.Distillation``.
    """

    name: ClassVar[str] = "distil"
    teacher: int | str | None = None
    temperature: float = 4.0
    weight: float = 0.5
    features: float = 0.0

    def check(self, path: Callable[[str], str]) -> None:
        """The lesson, and a teacher from outside the recipe."""
        lesson = Distillation(nn.Identity(), self.temperature, self.weight, self.features)
        lesson.check(TrainConfig(**self.recipe))
        if isinstance(self.teacher, str):
            Artifact.open(Path(path(self.teacher)))

    def refused_after(self, earlier: Sequence[RecipeStage], *, trained: bool) -> str:
        """A teacher must be there by then."""
        if isinstance(self.teacher, int) and not 0 <= self.teacher <= len(earlier):
            return f"its teacher is stage {self.teacher}, and stages 0 to {len(earlier)} are there by then"
        if self.teacher is None and not trained:
            return "no earlier stage trains a teacher. Put a train stage before it, or name a teacher"
        return ""

    def reads(self, work: StageWork) -> dict[str, Any]:
        """A teacher from outside the recipe."""
        return {"teacher": artifact_checksums(Path(work.path(self.teacher)))} if isinstance(self.teacher, str) else {}

    def lesson(self, work: StageWork) -> Lesson:
        """What the teacher is, and how much of the loss it has."""
        if isinstance(self.teacher, int):
            teacher: Path | None = work.artifacts[self.teacher]
        else:
            teacher = work.teacher if self.teacher is None else Path(work.path(self.teacher))
        return Lesson(teacher, self.temperature, self.weight, self.features)
