"""What a stage of a recipe is: it goes from the artifact of the stage before to an artifact of its own."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, Self, TypeVar

from torch import Tensor

from reconvene import artifact
from reconvene.costs import Budget
from reconvene.data import Dataset
from reconvene.devices import HERE
from reconvene.devices.store import find
from reconvene.models import example_inputs
from reconvene.planning.target import content_digest
from reconvene.training.recipe import read_recipe
from reconvene.utils.invalid_values import Place
from reconvene.utils.settings import Settings


@dataclass(frozen=True, kw_only=True)
class StageWork:
    """What a stage works on.

    Attributes:
        folder: of the stage; when it is done it holds its artifact.
        before: the artifact of the stage before.
        teacher: the artifact of the last trained network; None where nothing was trained yet.
        artifacts: of the source and of all stages before.
        later: the stages after this one.
        dataset: the data of the recipe.
        budget: of the whole recipe, in absolute amounts; None where it has none.
        trained: whether the weights are worth keeping.
        precision: of the file from this stage on: ``fp32``, ``int8``, or ``plan`` for bits that a plan decides.
        last_precision: of the file that the recipe ends with.
        formats: of the files that the recipe ends with.
        seed: of the recipe.
        path: from a path in the recipe to one from here.
    """

    folder: Path
    before: Path
    teacher: Path | None
    artifacts: tuple[Path, ...]
    later: tuple[RecipeStage, ...]
    dataset: Dataset
    budget: Budget | None
    trained: bool
    precision: str
    last_precision: str
    formats: tuple[str, ...]
    seed: int
    allow_import: bool
    path: Callable[[str], str]

    def path_of(self, name: str | None) -> str | None:
        """The same for an option that may be left out."""
        return None if name is None else self.path(name)

    @property
    def inputs(self) -> Tensor:
        """One example of what the network takes, ``[1, C, H, W]``."""
        return example_inputs(self.dataset.shape, seed=self.seed)


@dataclass(frozen=True, kw_only=True)
class RecipeStage(ABC):
    """One stage with its options; its fields are what a recipe may say of it."""

    name: ClassVar[str]
    changes: ClassVar[bool] = True
    """Whether it leaves another network than the one before."""
    precision: ClassVar[str | None] = None
    """Of the file from this stage on; None: as it was."""

    @classmethod
    def read(cls, settings: Settings, place: Place) -> Self:
        """The stage that a table describes; it fails with the line of a mistake."""
        return settings.read(cls, place)

    @property
    def trains(self) -> bool:
        """Whether it trains, so that what follows it finds trained weights."""
        return False

    @property
    def device(self) -> str | None:
        """The device whose latency the stage limits; None: no option says it."""
        return None

    @property
    def activation_bits(self) -> tuple[int, ...]:
        """Bits that the stage decides for what layers read; none where it decides no bits."""
        return ()

    @property
    def needs_budget(self) -> bool:
        """Whether it keeps the budget of the recipe, since it has no limit of its own."""
        return False

    def check(self, path: Callable[[str], str]) -> None:
        """Raise ReconveneError for options that cannot work, whatever comes before; ``path`` is ``Recipe.path``."""
        return

    def refused_after(self, earlier: Sequence[RecipeStage], *, trained: bool) -> str:
        """Why it cannot follow these stages; empty where it can. ``trained``: whether the network is by then."""
        return ""

    def reads(self, work: StageWork) -> dict[str, Any]:
        """What decides the result beside the options, the data and the network before, in JSON types."""
        return {}

    @abstractmethod
    def carry_out(self, work: StageWork) -> None:
        """Leave the stage's artifact in ``work.folder``; after one that was stopped it goes on to the same bytes."""


_Stage = TypeVar("_Stage", bound=RecipeStage)


def read_beside_recipe(stage: type[_Stage], settings: Settings, place: Place) -> _Stage:
    """A stage in whose table values of ``TrainConfig``, its ``recipe``, stand beside its own options."""
    options = {entry.name for entry in fields(stage)} - {"recipe"}
    recipe = read_recipe(settings, place, besides=options)
    values = {name: value for name, value in settings.table(place).items() if name in options}
    return settings.check(stage, {**values, "recipe": recipe}, place)


def artifact_checksums(folder: Path) -> dict[str, str]:
    """The checksum of every file of an artifact."""
    return {name: entry.sha256 for name, entry in artifact.Artifact.open(folder).files.items()}


def copy_before(work: StageWork) -> bool:
    """Copy the previous artifact into the stage's folder unless one is there.

    Returns whether the folder still has the previous weights. It has not where a training finished and the recipe was
    stopped right after.
    """
    if not (work.folder / artifact.MANIFEST).exists():
        artifact.copy_artifact(work.before, work.folder)
    weights = [artifact.Artifact.open(path).files[artifact.WEIGHTS] for path in (work.before, work.folder)]
    return weights[0] == weights[1]


def follows_training(earlier: Sequence[RecipeStage], *, trained: bool) -> bool:
    """Whether the network after these stages is as a training left it; ``trained``: where none of them changes it."""
    changing = [stage for stage in earlier if stage.changes]
    return changing[-1].trains if changing else trained


def check_device(device: str | None, path: Callable[[str], str]) -> None:
    """Raise DeviceError where an option names no device that was profiled, and no file of a profile."""
    if device not in (None, HERE):
        find(path(str(device)))


def digests_of(options: Mapping[str, str | None], path: Callable[[str], str]) -> dict[str, str]:
    """Checksums of the files that options name, device profiles by their name among them: their contents decide."""
    given = {option: value for option, value in options.items() if value is not None}
    digests = {option: content_digest(path(value)) or content_digest(value) for option, value in given.items()}
    return {option: digest for option, digest in digests.items() if digest is not None}
