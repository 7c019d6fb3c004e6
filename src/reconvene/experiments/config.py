"""An experiment as one file, and the runs it comes to: arms x models x data x budgets x seeds."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any

from reconvene.costs import COSTS
from reconvene.errors import ExperimentError, UnknownNameError
from reconvene.experiments.methods import ARMS, arm_named
from reconvene.experiments.sources import check_device, check_model
from reconvene.planning.arguments import budget_argument
from reconvene.tasks import DEFAULT, TASKS
from reconvene.training.recipe import read_recipe
from reconvene.utils.invalid_values import Place
from reconvene.utils.settings import Argument, Positive, Seed, Settings, Shape, name_of, one_of
from reconvene.utils.settings_files import read_settings


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """What every run of an experiment shares, and a file says at its top.

    ``device`` is the profile that budgets on latency go by, by default this machine's.
    """

    epochs: Positive = 5
    round_to: Positive = 8
    latency: bool = True
    corruptions: bool = False
    device: str | None = None


@dataclass(frozen=True, kw_only=True)
class _Top(RunOptions):
    seeds: tuple[Seed, ...] = (0,)


@dataclass(frozen=True, kw_only=True)
class _Model:
    model: str
    args: dict[str, Argument] = field(default_factory=dict)
    input: Shape | None = None


@dataclass(frozen=True, kw_only=True)
class _Data:
    name: str
    spec: str
    limit: Positive | None = None
    task: Annotated[str, one_of(TASKS)] = DEFAULT.name


@dataclass(frozen=True, kw_only=True)
class Run(RunOptions):
    """All that decides one result: two runs that are equal are one run. Budgets and options as they are written.

    ``data`` is a name; where those images lie is the business of the machine, and ``limit`` is how many are used of
    each split. ``task`` says what its targets are. ``seed`` draws the initial weights, the criterion's noise and data,
    and the order of training.
    """

    arm: str
    options: dict[str, Any]
    model: str
    args: dict[str, Any]
    data: str
    limit: int | None
    budget: dict[str, Any]
    seed: int
    train: dict[str, Any]
    input: tuple[int, ...] | None = None
    task: str = DEFAULT.name

    @property
    def key(self) -> str:
        """Sixteen hex digits that name this run.

        What has a usual value and holds it does not count, so that a run keeps its name when a new choice is added;
        but for the epochs, which stood in the first names.
        """
        usual = {entry.name: entry.default for entry in fields(self) if entry.default is not MISSING}
        del usual["epochs"]
        said = {name: value for name, value in asdict(self).items() if name not in usual or value != usual[name]}
        return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:16]

    @property
    def label(self) -> str:
        """The arm and those of its options that are not the usual ones."""
        return arm_label(self.arm, self.options)

    def __str__(self) -> str:
        size = f" x{self.args['width']:g}" if "width" in self.args else ""
        limits = " and ".join(f"{cost} {value}" for cost, value in self.budget.items()) or "whole"
        recipe = "".join(f", {name} {value}" for name, value in self.train.items())
        return f"{self.model}{size}, {self.data}, {limits}, {self.label}{recipe}, seed {self.seed}"

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Run:
        """Undo ``asdict`` after JSON."""
        shape = values.get("input")
        return cls(**{**values, "input": None if shape is None else tuple(shape)})


@dataclass(frozen=True)
class Experiment:
    """What a file asks for. ``sources`` says where each named data set lies, ``places`` in which line it says so."""

    name: str
    runs: tuple[Run, ...]
    sources: dict[str, str] = field(default_factory=dict)
    places: dict[str, str] = field(default_factory=dict)


def arm_label(arm: str, options: Mapping[str, Any]) -> str:
    """``ours(snip, ablation)``: the values of options that are not the arm's defaults, in its order."""
    usual = arm_named(arm).options
    changed = [name for name in usual if options.get(name, usual[name]) != usual[name]]
    values = [name if options[name] is True else str(options[name]) for name in changed]
    return f"{arm}({', '.join(values)})" if values else arm


def read_experiment(path: str | os.PathLike[str], *, sources: Mapping[str, str] | None = None) -> Experiment:
    """Read a file, TOML or YAML; see ``docs/cli.md`` for what it may say. ``sources`` overrides where data sets lie.

    Raises:
        ExperimentError: the file is missing, is neither, or asks for what does not exist; it names the line.
        UnknownNameError: ``sources`` names data that the file does not.
    """
    settings = read_settings(path, error=ExperimentError, usual="toml")
    return _experiment(settings, name=Path(path).stem, sources=sources)


def make_experiment(
    values: Mapping[str, Any], *, name: str = "experiment", sources: Mapping[str, str] | None = None
) -> Experiment:
    """The experiment that a table of plain values describes. Raises ExperimentError, UnknownNameError."""
    settings = Settings(values, source="the experiment", error=ExperimentError)
    return _experiment(settings, name=name, sources=sources)


def _experiment(settings: Settings, *, name: str, sources: Mapping[str, str] | None) -> Experiment:
    top = settings.read(_Top, besides=(*_PARTS, "budgets", "train"))
    places = {part: settings.tables(part) for part in (*_PARTS, "budgets")}
    if missing := [part for part in _PARTS if not places[part]]:
        settings.fail((), f"the experiment names no {missing[0]}. Give at least one [[{missing[0]}]]")
    _require_values(settings, (), ("seeds",))
    models = _models(settings, places["models"])
    data = [settings.read(_Data, place) for place in places["data"]]
    if again := [name for name, count in Counter(entry.name for entry in data).items() if count > 1]:
        settings.fail(places["data"][-1], f"two of data are called {again[0]!r}. Give each a name of its own")
    recipe = read_recipe(settings, ("train",), lists=True) if "train" in settings.values else {}
    _require_values(settings, ("train",), recipe)
    cells = list(_cells(settings, places["arms"], places["budgets"], top.epochs))
    check_device(settings, top.device)
    shared = {entry.name: getattr(top, entry.name) for entry in fields(RunOptions)}
    runs = [
        Run(
            arm=arm,
            options=options,
            model=model.model,
            args=model.args,
            data=images.name,
            limit=images.limit,
            budget=budget,
            seed=seed,
            train=dict(choice),
            input=model.input,
            task=images.task,
            **shared,
        )
        # Seeds change slowest: whatever is there when time runs out covers every arm.
        for seed, model, images in itertools.product(top.seeds, models, data)
        for choice in _every(recipe)
        for arm, options, budget in cells
    ]
    names = [entry.name for entry in data]
    if unknown := [source for source in sources or {} if source not in names]:
        raise UnknownNameError("data of the experiment", unknown[0], names)
    locations = {entry.name: os.path.expandvars(entry.spec) for entry in data} | dict(sources or {})
    lines = {name: settings.where((*place, "spec")) for name, place in zip(names, places["data"], strict=True)}
    lines |= {name: "--data" for name in sources or {}}
    return Experiment(name, tuple({run.key: run for run in runs}.values()), locations, lines)


_PARTS = ("arms", "models", "data")
_Cell = tuple[str, dict[str, Any], dict[str, Any]]
"""An arm, its options, and the budget it is to keep."""


def _models(settings: Settings, places: list[Place]) -> list[_Model]:
    """The models, each of which can be looked up."""
    models = [settings.read(_Model, place) for place in places]
    for place, model in zip(places, models, strict=True):
        check_model(settings, place, model.model, model.args, model.input)
    return models


def _require_values(settings: Settings, place: Place, names: Iterable[str]) -> None:
    """Fail at a list of values that holds none: it would ask for no run."""
    for name in names:
        if settings.table(place).get(name) in ([], ()):
            settings.fail((*place, name), f"{name_of((*place, name))} is an empty list. Give at least one value")


def _cells(settings: Settings, arms: list[Place], budgets: list[Place], epochs: int) -> Iterator[_Cell]:
    """Every arm with every value of its options, under every budget it can take; budget by budget."""
    for place in budgets:
        settings.require_known(place, COSTS)
        budget_argument(settings, place)
    choices = [_arm(settings, place, epochs, any_budget=bool(budgets)) for place in arms]
    asked = [dict(settings.table(place)) for place in budgets] or [{}]
    needs = [arm_named(name).needs for name, _ in choices]
    if not any(cost is None or any(cost in budget for budget in asked) for cost in needs):
        why = f"arm {choices[0][0]!r} keeps a budget on {needs[0]}, and no [[budgets]] has one"
        settings.fail(arms[0], f"the experiment comes to no run: {why}. Add one, such as {needs[0]} = '16x'")
    for number, budget in enumerate(asked):
        for name, options in choices:
            arm = arm_named(name)
            if not (arm.takes(budget) if arm.budgets else number == 0):
                continue
            for picked in _every(options):
                yield name, {**arm.options, **picked}, budget if arm.budgets else {}


def _every(choices: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Every combination of the values of a table, where a list asks for each of its own."""
    values = [value if isinstance(value, list) else [value] for value in choices.values()]
    for picked in itertools.product(*values):
        yield dict(zip(choices, picked, strict=True))


def _arm(settings: Settings, place: Place, epochs: int, *, any_budget: bool) -> tuple[str, dict[str, Any]]:
    """An arm's name, and what is asked of each option: one value, or a list; all of them checked, also together."""
    entry = settings.table(place)
    name = entry.get("arm")
    if not isinstance(name, str) or name not in ARMS:
        settings.fail((*place, "arm"), str(UnknownNameError("arm", name, ARMS)))
    arm = arm_named(name)
    settings.require_known(place, {"arm", *arm.options})
    if arm.budgets and not any_budget:
        settings.fail(place, f"arm {name!r} needs a budget. Give at least one [[budgets]], such as params = '16x'")
    options = {key: value for key, value in entry.items() if key != "arm"}
    _require_values(settings, place, options)
    for key, value in options.items():
        for choice in value if isinstance(value, list | tuple) else [value]:
            settings.check(arm.type_of(key), choice, (*place, key))
    for picked in _every(options):
        try:
            arm.check({**arm.options, **picked}, epochs)
        except ExperimentError as error:
            settings.fail(place, f"{name_of(place)}: {error}")
    return name, options


__all__ = ["Experiment", "Run", "arm_label", "make_experiment", "read_experiment"]
