"""An experiment as one file, and the runs it comes to: arms x models x data x budgets x seeds."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import tomllib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from reconvene.costs import COSTS, Budget
from reconvene.errors import ExperimentError
from reconvene.experiments.methods import ARMS, arm_named
from reconvene.training import TrainConfig

_RECIPE = {entry.name for entry in fields(TrainConfig)} - {"seed", "checkpoint_seconds"}


@dataclass(frozen=True)
class Run:
    """All that decides one result: two runs that are equal are one run. Budgets and options as they are written.

    ``data`` is a name; where those images lie is the business of the machine, and ``limit`` is how many are used of
    each split. ``device`` is the profile that budgets on latency go by, by default this machine's. ``seed`` draws the
    initial weights, the criterion's noise and data, and the order of training.
    """

    arm: str
    options: dict[str, Any]
    model: str
    args: dict[str, Any]
    data: str
    limit: int | None
    budget: dict[str, Any]
    seed: int
    epochs: int
    train: dict[str, Any]
    input: tuple[int, ...] | None = None
    round_to: int = 8
    latency: bool = True
    corruptions: bool = False
    device: str | None = None

    @property
    def key(self) -> str:
        """Sixteen hex digits that name this run.

        What has a usual value and holds it does not count, so that a run keeps its name when a new choice is added.
        """
        usual = {entry.name: entry.default for entry in fields(self) if entry.default is not MISSING}
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
    """What a file asks for. ``sources`` says where each named data set lies."""

    name: str
    runs: tuple[Run, ...]
    sources: dict[str, str] = field(default_factory=dict)


def arm_label(arm: str, options: Mapping[str, Any]) -> str:
    """``ours(snip, ablation)``: the values of options that are not the arm's defaults, in its order."""
    usual = arm_named(arm).options
    changed = [name for name in usual if options.get(name, usual[name]) != usual[name]]
    values = [name if options[name] is True else str(options[name]) for name in changed]
    return f"{arm}({', '.join(values)})" if values else arm


def read_experiment(path: str | os.PathLike[str], *, sources: Mapping[str, str] | None = None) -> Experiment:
    """Read a TOML file; see ``docs/cli.md`` for what it may say. ``sources`` overrides where data sets lie.

    Raises:
        ExperimentError: the file is missing, is not TOML, or asks for what does not exist.
    """
    try:
        values = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ExperimentError(f"the experiment {path} cannot be read: {error.strerror}") from error
    except tomllib.TOMLDecodeError as error:
        raise ExperimentError(f"the experiment {path} is not TOML: {error}") from error
    return make_experiment(values, name=Path(path).stem, sources=sources)


def make_experiment(
    values: Mapping[str, Any], *, name: str = "experiment", sources: Mapping[str, str] | None = None
) -> Experiment:
    """The experiment that a table of plain values describes. Raises ExperimentError."""
    _require_known(values, {*_TOP, "arms", "models", "data", "budgets", "train"}, "the experiment")
    for part in ("arms", "models", "data", "budgets"):
        if not values.get(part) and part != "budgets":
            raise ExperimentError(f"the experiment names no {part}. Give at least one [[{part}]]")
        if not all(isinstance(entry, Mapping) for entry in values.get(part, [])) or isinstance(
            values.get(part), Mapping
        ):
            raise ExperimentError(f"{part} is a list of tables: each begins with [[{part}]]")
    if not isinstance(values.get("seeds", []), list):
        raise ExperimentError(f"seeds is a list of numbers, such as [0, 1, 2], not {values['seeds']!r}")
    models = [_entry(entry, {"model"}, {"args", "input"}, "models") for entry in values["models"]]
    data = [_entry(entry, {"name", "spec"}, {"limit"}, "data") for entry in values["data"]]
    _require_known(values.get("train", {}), _RECIPE, "[train]")
    for model in models:
        if wrong := [f"{name} = {value!r}" for name, value in model.get("args", {}).items() if isinstance(value, list)]:
            raise ExperimentError(f"[[models]] {model['model']}: {wrong[0]}. Give every size a [[models]] of its own")
    if again := [name for name, count in Counter(entry["name"] for entry in data).items() if count > 1]:
        raise ExperimentError(f"two [[data]] are called {again[0]!r}. Give each a name of its own")
    top = {key: values.get(key, usual) for key, usual in _TOP.items()}
    runs = [
        Run(
            arm=arm,
            options=options,
            model=model["model"],
            args=dict(model.get("args", {})),
            data=images["name"],
            limit=images.get("limit"),
            budget=budget,
            seed=seed,
            epochs=top["epochs"],
            train=dict(recipe),
            input=tuple(model["input"]) if "input" in model else None,
            round_to=top["round_to"],
            latency=top["latency"],
            corruptions=top["corruptions"],
            device=top["device"],
        )
        # Seeds change slowest: whatever is there when time runs out covers every arm.
        for seed, model, images in itertools.product(top["seeds"], models, data)
        for recipe in _every(values.get("train", {}))
        for arm, options, budget in _cells(values)
    ]
    if not runs:
        raise ExperimentError("the experiment comes to no run at all: seeds, [train] or an arm holds an empty list")
    paths = {entry["name"]: os.path.expandvars(entry["spec"]) for entry in data} | dict(sources or {})
    return Experiment(name, tuple(dict((run.key, run) for run in runs).values()), paths)


_TOP: dict[str, Any] = {"epochs": 5, "seeds": [0], "round_to": 8, "latency": True, "corruptions": False, "device": None}


def _cells(values: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
    """Every arm with every value of its options, under every budget it can take; budget by budget."""
    budgets = [dict(budget) for budget in values.get("budgets", [])]
    for budget in budgets:
        _require_known(budget, set(COSTS), "[[budgets]]")
        Budget(**budget)
    arm_choices = [_options(entry, bool(budgets)) for entry in values["arms"]]
    for number, budget in enumerate(budgets or [{}]):
        for name, choices in arm_choices:
            arm = arm_named(name)
            if not (arm.takes(budget) if arm.budgets else number == 0):
                continue
            for picked in _every(choices):
                yield name, {**arm.options, **picked}, budget if arm.budgets else {}


def _every(choices: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Every combination of the values of a table, where a list asks for each of its own."""
    values = [value if isinstance(value, list) else [value] for value in choices.values()]
    for picked in itertools.product(*values):
        yield dict(zip(choices, picked, strict=True))


def _options(entry: Mapping[str, Any], any_budget: bool) -> tuple[str, dict[str, Any]]:
    """An arm's name, and what is asked of each option."""
    name = str(entry.get("arm", ""))
    arm = arm_named(name)
    _require_known(entry, {"arm", *arm.options}, f"arm {name!r}")
    if arm.budgets and not any_budget:
        raise ExperimentError(f"arm {name!r} needs a budget. Give at least one [[budgets]], such as params = '16x'")
    return name, {key: value for key, value in entry.items() if key != "arm"}


def _entry(entry: Mapping[str, Any], needed: set[str], optional: set[str], part: str) -> Mapping[str, Any]:
    _require_known(entry, needed | optional, f"[[{part}]]")
    if missing := sorted(needed - set(entry)):
        raise ExperimentError(f"[[{part}]] {dict(entry)} does not say its {', '.join(missing)}")
    return entry


def _require_known(entry: Mapping[str, Any], names: set[str], subject: str) -> None:
    if unknown := sorted(set(entry) - names):
        raise ExperimentError(f"{subject} has no {', '.join(unknown)}. It may say: {', '.join(sorted(names))}")


__all__ = ["ARMS", "Experiment", "Run", "arm_label", "make_experiment", "read_experiment"]
