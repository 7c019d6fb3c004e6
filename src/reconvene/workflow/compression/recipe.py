"""A recipe as one file: a network, its data, a budget for the whole, and the stages it goes through in this order."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

from reconvene import artifact
from reconvene.costs import Budget
from reconvene.data.preprocessing import per_channel
from reconvene.devices import HERE
from reconvene.errors import DataError, RecipeError, ReconveneError, UnknownNameError
from reconvene.planning.arguments import budget_argument
from reconvene.tasks import TASKS
from reconvene.utils.invalid_values import Place
from reconvene.utils.settings import Argument, Positive, Seed, Settings, Shape, one_of
from reconvene.utils.settings_files import read_settings
from reconvene.workflow.compression.judge import MEASURED
from reconvene.workflow.compression.pruning_stages import LimitedStage
from reconvene.workflow.compression.registry import STAGES
from reconvene.workflow.compression.stage import RecipeStage
from reconvene.workflow.inputs import DataChoice

USUAL_STAGES = ("train", "prune", "distil", "quantise", "export")
"""What a recipe goes through that has a budget and names no stages: a trained network is not trained first."""
RecipeLike = str | os.PathLike[str] | Mapping[str, Any]
"""The path of a file, YAML or TOML, or what it holds."""


@dataclass(frozen=True, kw_only=True)
class RecipeOptions:
    """What a recipe says at its top, beside its stages and its budget.

    Attributes:
        model: an address, or the folder of an artifact, whose network then begins.
        args: what the model's constructor is given.
        input: shape of one example; by default the model's own.
        weights: file with weights of the model, which counts as trained then.
        trained: whether the model comes with weights that are worth keeping.
        data, limit, task, mean, std: as ``reconvene.data.load_data`` takes them; an artifact has its own mean and std.
        seed: of everything random, in every stage.
    """

    model: str
    args: dict[str, Argument] = field(default_factory=dict)
    input: Shape | None = None
    weights: str | None = None
    trained: bool = False
    data: str = "digits"
    limit: Positive | None = None
    task: Annotated[str, one_of(TASKS)] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    seed: Seed = 0


@dataclass(frozen=True, kw_only=True)
class Recipe(RecipeOptions):
    """Everything that a recipe says. ``budget`` is what the last stage's network must keep; None: no limit."""

    stages: tuple[RecipeStage, ...]
    budget: Budget | None = None
    folder: Path = Path()
    """Where the recipe lies; paths in it are from there."""

    def path(self, name: str) -> str:
        """A path in the recipe is from where the recipe lies; what is not there is no path, or from here."""
        nearby = self.folder / name
        return str(nearby) if nearby.exists() else name

    def data_choice(self, input_shape: tuple[int, ...] | None) -> DataChoice:
        """How the data are loaded for a network that reads this shape."""
        return DataChoice(self.task, input_shape, self.limit, mean=self.mean, std=self.std)

    @property
    def base(self) -> Path | None:
        """The artifact that the recipe begins with; None where ``model`` is an address."""
        folder = Path(self.path(self.model))
        return folder if (folder / artifact.MANIFEST).is_file() else None

    @property
    def latency_device(self) -> str | None:
        """The device, by its name or the file of its profile, whose latency the budget is about; None: this machine."""
        if self.budget is None or "latency" not in self.budget:
            return None
        devices = [stage.device for stage in self.stages if stage.needs_budget]
        named = [device for device in devices if device not in (None, HERE)]
        return self.path(named[0]) if named else None

    @property
    def is_trained(self) -> bool:
        """Whether the network that begins comes with weights that are worth keeping."""
        if self.trained or self.weights is not None:
            return True
        return self.base is not None and artifact.Artifact.open(self.base).is_trained


def read_recipe_file(recipe: RecipeLike) -> Recipe:
    """Read a recipe; nothing is loaded or built yet.

    Raises RecipeError: the file is missing, or says what cannot be done; the message names the line.
    """
    if isinstance(recipe, Mapping):
        return _read(Settings(dict(recipe), source="the recipe", error=RecipeError), Path())
    return _read(read_settings(recipe, error=RecipeError, usual="yaml"), Path(recipe).parent)


def _read(settings: Settings, folder: Path) -> Recipe:
    options = settings.read(RecipeOptions, besides=("stages", "budget"))
    budget = None
    if "budget" in settings.values:
        budget = budget_argument(settings, ("budget",))
        settings.require_known(("budget",), budget.asked)
    entries = settings.values.get("stages")
    bare = Recipe(**vars(options), stages=(), budget=budget, folder=folder)
    _check_source(settings, bare)
    if entries is None and budget is not None:
        entries = USUAL_STAGES[bare.is_trained :]
    if not isinstance(entries, list | tuple) or not entries:
        settings.fail(
            ("stages",),
            f"a recipe has a list of stages, each one of {', '.join(STAGES)}; or a budget, which the usual stages keep",
        )
    settings = settings.with_values({**settings.values, "stages": [_with_options(entry) for entry in entries]})
    stages = tuple(_stage(settings, ("stages", index)) for index in range(len(entries)))
    recipe = replace(bare, stages=stages)
    _check_order(settings, recipe)
    return recipe


def _check_source(settings: Settings, recipe: Recipe) -> None:
    """Fail at a key that says nothing beside an artifact, and at a file that is not there."""
    for name in ("weights", "args", "input"):
        if recipe.base is not None and name in settings.values:
            settings.fail((name,), f"{name}: {recipe.model} is an artifact, which has its own. Leave {name} out")
    _check_normalisation(settings, recipe)
    if recipe.weights is not None and not Path(recipe.path(recipe.weights)).is_file():
        settings.fail(
            ("weights",), f"there is no file {recipe.folder / recipe.weights}: paths are from the recipe's folder"
        )


def _check_normalisation(settings: Settings, recipe: Recipe) -> None:
    """Fail at a mean or std that is none, or other than an artifact's network was trained with."""
    normalised = None if recipe.base is None else artifact.Artifact.open(recipe.base).normalised
    for name, given in (("mean", recipe.mean), ("std", recipe.std)):
        if given is None:
            continue
        known = None if normalised is None else getattr(normalised, name)
        try:
            values = per_channel(name, given, len(known or given))
        except DataError as error:
            settings.fail((name,), str(error))
        if known is not None and values != known:
            settings.fail(
                (name,), f"{name}: the network in {recipe.model} was trained with {list(known)}. Leave {name} out"
            )


def _stage(settings: Settings, place: Place) -> RecipeStage:
    """One entry of the list: a table of one name, whose value is the stage's options."""
    entry = settings.at(place)
    if not isinstance(entry, Mapping) or len(entry) != 1:
        settings.fail(place, "a stage is its name, or its name with its options, such as: prune: {params: 4x}")
    [name] = entry
    if name not in STAGES:
        settings.fail(place, str(UnknownNameError("stage", name, STAGES)))
    settings.table((*place, name))
    return STAGES[name].read(settings, (*place, name))


def _with_options(entry: Any) -> Any:
    """``export``, and ``export:`` with nothing behind it, are an export without options."""
    if isinstance(entry, str):
        return {entry: {}}
    if isinstance(entry, Mapping):
        return {name: {} if options is None else options for name, options in entry.items()}
    return entry


def _check_order(settings: Settings, recipe: Recipe) -> None:
    """Fail at a stage that cannot come where it stands: that is known before hours of training."""
    trained = recipe.is_trained
    previous: int | None = None
    for index, stage in enumerate(recipe.stages):
        place: Place = ("stages", index)
        why = stage.refused_after(recipe.stages[:index], trained=trained)
        try:
            stage.check(recipe.path)
            if isinstance(stage, LimitedStage):
                stage.check_limits(stage.limits or (recipe.budget.asked if recipe.budget is not None else ()))
        except ReconveneError as error:
            why = str(error)
        if why:
            settings.fail(place, f"stage {index + 1}, {stage.name}: {why}")
        trained = trained or stage.trains
        if not stage.needs_budget:
            continue
        if recipe.budget is None:
            settings.fail(
                place,
                f"stage {index + 1}, {stage.name}, has no limit, such as params: 4x, and the recipe has no budget",
            )
        if previous is not None:
            settings.fail(
                place,
                f"stages {previous + 1} and {index + 1} both have no limit of their own, so the first would keep the "
                "whole budget and leave the second nothing to do. Give the first one a limit",
            )
        previous = index
    _check_budget(settings, recipe, kept=previous is not None)


def _check_budget(settings: Settings, recipe: Recipe, *, kept: bool) -> None:
    """Fail at a limit that nothing looks at: no stage keeps it, and the last network is not measured for it."""
    for name in () if recipe.budget is None or kept else recipe.budget.asked:
        if name not in MEASURED:
            settings.fail(
                ("budget", name),
                f"a recipe measures {', '.join(MEASURED)} of its last network, and no stage keeps a limit on {name}. "
                "Add a prune or bits stage without limits of its own",
            )
