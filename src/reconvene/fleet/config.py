"""``fleet.yaml``: devices with budgets, architectures, what to do with each; trouble is told with its line."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from reconvene.costs import COSTS, Budget
from reconvene.criteria import CRITERIA
from reconvene.data import count
from reconvene.deploy.quantisation import PRECISIONS
from reconvene.deploy.runtimes.base import imported
from reconvene.deploy.runtimes.registry import FORMATS, memory_planners
from reconvene.devices import HERE, find
from reconvene.errors import (
    BudgetError,
    DataError,
    DeviceError,
    FleetError,
    ModelError,
    TrainingError,
    UnknownNameError,
)
from reconvene.evaluator import EVALUATORS
from reconvene.models import Source, resolve
from reconvene.planning.target import Target
from reconvene.rectifier import WAYS
from reconvene.training import TrainConfig

_RECIPE = {entry.name for entry in fields(TrainConfig)} - {"seed", "checkpoint_seconds"}
_DEVICE = {*COSTS, "profile", "round_to", "export", "models", "memory_of", "precision"}
_TOP = {
    "models",
    "devices",
    "input",
    "args",
    "criterion",
    "evaluator",
    "rectify",
    "seed",
    "data",
    "limit",
    "train",
    "export",
}


@dataclass(frozen=True)
class Device:
    """One device: its budget, the profile that budgets on latency are kept by, the formats it loads."""

    name: str
    budget: Budget
    profile: str | None = None
    round_to: int | None = None
    export: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    memory_of: str | None = None
    precision: str | None = None

    @property
    def target(self) -> Target:
        """What its budget is about: sizes are those of the files it loads."""
        return Target(self.profile, self.export, self.memory_of, self.precision)


@dataclass(frozen=True)
class Fleet:
    """Everything the file asks for. ``train``: the recipe with ``epochs``, empty for none."""

    devices: tuple[Device, ...]
    models: tuple[str, ...]
    args: dict[str, Any] = field(default_factory=dict)
    input: tuple[int, ...] | None = None
    criterion: str | None = None
    evaluator: str = "fan_in"
    rectify: str = "reinit"
    seed: int = 0
    data: str = "digits"
    limit: int | None = None
    train: dict[str, Any] = field(default_factory=dict)


def read_fleet(path: str | Path) -> Fleet:
    """Read a fleet's file; models of the user's own are not imported yet.

    Raises FleetError with the line at fault, MissingExtraError without PyYAML or what a model comes with.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise FleetError(f"{path} cannot be read: {error}") from error
    yaml = imported("yaml", "fleet", "reading a fleet's file")
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark is not None else ""
        raise FleetError(f"{path}{line}: this is no YAML: {getattr(error, 'problem', error)}") from error
    return _Reader(str(path), yaml).fleet(root)


class _Reader:
    def __init__(self, path: str, yaml: Any) -> None:
        self.path, self.yaml = path, yaml

    def fleet(self, root: Any) -> Fleet:
        top = self._mapping(root, "the file", _TOP)
        if "devices" not in top or "models" not in top:
            self._fail(root, "a fleet needs models and devices")
        shared = self._formats(top) if "export" in top else ()
        models = self._names(top["models"])
        named = self._mapping(top["devices"], "devices", None)
        devices = tuple(self._device(name, node, shared, models) for name, node in named.items())
        if not devices:
            self._fail(top["devices"], "there is no device")
        train = self._train(top["train"]) if "train" in top else {}
        shape = self._value(top["input"]) if "input" in top else None
        options = {name: self._typed(top[name], value_type) for name, value_type in _TYPES.items() if name in top}
        for name, choices in _KNOWN.items():
            self._one_of(top, name, choices)
        if not 0 <= options.get("seed", 0) < 2**63:
            self._fail(top["seed"], f"seed {options['seed']} is not a whole number from 0 to 2^63 - 1")
        if "data" in options:
            options["data"] = self._data(top["data"])
        if options.get("limit", 1) < 1:
            self._fail(top["limit"], f"limit {options['limit']} must be at least 1")
        args = {k: self._value(v) for k, v in self._mapping(top["args"], "args", None).items()} if "args" in top else {}
        sizes = None
        if shape is not None:
            try:
                sizes = tuple(int(size) for size in str(shape).lower().split("x"))
            except ValueError:
                sizes = (0,)
            if min(sizes) < 1:
                self._fail(top["input"], f"input {shape!r} is no shape such as 3x32x32")
        self._models(top["models"], models, args, sizes)
        return Fleet(devices, models, args=args, input=sizes, train=train, **options)

    def _device(self, name: str, node: Any, shared: tuple[str, ...], models: tuple[str, ...]) -> Device:
        reserved = name in ("index.html", "fleet.json") or (name.startswith("front-") and name.endswith(".svg"))
        plain = name.isprintable() and len(name) <= 100 and not reserved
        if not plain or not name or Path(name).name != name or name.startswith("."):
            self._fail(node, f"device {name!r} becomes a folder: give it a plain name")
        entries = self._mapping(node, f"device {name}", _DEVICE)
        values = {cost: self._value(entries[cost]) for cost in COSTS if cost in entries}
        try:
            budget = Budget(**values)
        except BudgetError as error:
            culprit = next((cost for cost in values if str(error).startswith(cost)), next(iter(values), ""))
            self._fail(entries.get(culprit, node), f"device {name}: {error}")
        if "memory_of" in entries and "peak_memory" not in entries:
            self._fail(entries["memory_of"], f"device {name}: memory_of is about peak_memory, which has no budget here")
        device_models = self._names(entries["models"]) if "models" in entries else ()
        if unknown := [model for model in device_models if model not in models]:
            self._fail(entries["models"], f"device {name}: the fleet has no model {unknown[0]!r}: {', '.join(models)}")
        precision = self._one_of(entries, "precision", PRECISIONS)
        profile = None
        if "profile" in entries:
            profile, precision = self._profile(name, entries["profile"], precision)
        step = self._typed(entries["round_to"], int) if "round_to" in entries else None
        if step is not None and step < 1:
            self._fail(entries["round_to"], f"device {name}: round_to {step} is not a whole number above 0")
        return Device(
            name,
            budget,
            profile,
            step,
            self._formats(entries) if "export" in entries else shared,
            device_models,
            self._one_of(entries, "memory_of", memory_planners()),
            precision,
        )

    def _profile(self, device: str, node: Any, precision: str | None) -> tuple[str, str | None]:
        """The name or the path of a profile that can be read now, and not only after other devices were planned.

        And the precision of all that the device gets, by default that of its profile.
        """
        profile = str(self._typed(node, str))
        if profile.endswith(".json"):
            profile = str(Path(self.path).parent / profile)
        if profile == HERE:
            return profile, precision
        try:
            profile_precision = find(profile).precision
        except (DeviceError, UnknownNameError) as error:
            self._fail(node, f"device {device}: {error}")
        if precision not in (None, profile_precision):
            self._fail(
                node, f"device {device}: precision is {precision}, and its profile was measured in {profile_precision}"
            )
        return profile, profile_precision

    def _models(self, node: Any, names: tuple[str, ...], args: dict[str, Any], shape: tuple[int, ...] | None) -> None:
        """Look every architecture up."""
        nodes = node.value if isinstance(node, self.yaml.SequenceNode) else [node]
        for name, model_node in zip(names, nodes, strict=True):
            try:
                if not Source(name).imports:
                    resolve(name, args, input_shape=shape)
            except (ModelError, UnknownNameError) as error:
                self._fail(model_node, str(error))

    def _data(self, node: Any) -> str:
        """The data, a path from where the file is; looked up unless they are an id on the hub, but not read."""
        spec = str(self._typed(node, str))
        local_path = Path(self.path).parent / Path(spec).expanduser()
        is_path = spec != "digits" and (local_path.exists() or Path(spec).exists())
        location = str(local_path.resolve()) if is_path else spec
        try:
            count(location)
        except DataError as error:
            self._fail(node, f"{error} A path is from the folder of this file")
        return location

    def _formats(self, entries: Mapping[str, Any]) -> tuple[str, ...]:
        names = self._names(entries["export"])
        for name in names:
            if name not in FORMATS:
                self._fail(entries["export"], f"export {name!r} is none of {', '.join(sorted(FORMATS))}")
        return names

    def _one_of(self, entries: Mapping[str, Any], key: str, choices: Collection[str]) -> str | None:
        value = self._typed(entries[key], str) if key in entries else None
        if value is not None and value not in choices:
            self._fail(entries[key], f"{key} {value!r} is none of {', '.join(sorted(choices))}")
        return value

    def _train(self, node: Any) -> dict[str, Any]:
        entries = self._mapping(node, "train", {"epochs", *_RECIPE})
        if "epochs" not in entries:
            self._fail(node, "train needs epochs")
        values = {name: self._value(value) for name, value in entries.items()}
        if isinstance(values["epochs"], bool) or not isinstance(values["epochs"], int) or values["epochs"] < 1:
            self._fail(entries["epochs"], f"epochs {values['epochs']!r} is not a whole number above 0")
        for name in values.keys() - {"epochs"}:
            why = ""
            try:
                TrainConfig(**{name: values[name]}).check()
                if isinstance(values[name], bool) != isinstance(getattr(TrainConfig(), name), bool):
                    why = "it is true or false" if isinstance(values[name], bool) else "it must be true or false"
            except TrainingError as error:
                why = str(error).split("): ")[-1]
            except TypeError:
                why = "it is no number"
            if why:
                self._fail(entries[name], f"{name} {values[name]!r} cannot be trained with: {why}")
        return values

    def _mapping(self, node: Any, subject: str, allowed: set[str] | None) -> dict[str, Any]:
        if not isinstance(node, self.yaml.MappingNode):
            self._fail(node, f"{subject} is not made of 'name: value' lines")
        result: dict[str, Any] = {}
        for key, value in node.value:
            if not isinstance(key, self.yaml.ScalarNode):
                self._fail(key, f"a name in {subject} is no plain text")
            name = str(key.value)
            if name in result:
                self._fail(key, f"{name!r} is there twice in {subject}")
            if allowed is not None and name not in allowed:
                suggestions = difflib.get_close_matches(name, allowed, 1)
                hint = (
                    f"Did you mean {suggestions[0]!r}?" if suggestions else f"There are: {', '.join(sorted(allowed))}"
                )
                self._fail(key, f"{subject} has no {name!r}. {hint}")
            result[name] = value
        return result

    def _names(self, node: Any) -> tuple[str, ...]:
        value = self._value(node)
        names = [value] if isinstance(value, str) else value
        if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
            self._fail(node, f"{value!r} is not a list of names")
        if len(set(names)) < len(names):
            self._fail(node, f"{value!r} names one of them twice")
        return tuple(names)

    def _typed(self, node: Any, expected: type) -> Any:
        value = self._value(node)
        if not isinstance(value, expected) or isinstance(value, bool):
            self._fail(node, f"{value!r} is not {'a whole number' if expected is int else 'a name'}")
        return value

    def _value(self, node: Any) -> Any:
        try:
            return self.yaml.SafeLoader("").construct_object(node, deep=True)
        except (self.yaml.YAMLError, ValueError) as error:
            why = getattr(error, "problem", None) or error
            return self._fail(node, f"this value cannot be read: {why}")

    def _fail(self, node: Any, why: str) -> Any:
        line = f", line {node.start_mark.line + 1}" if node is not None else ""
        raise FleetError(f"{self.path}{line}: {why}")


_KNOWN: Mapping[str, Collection[str]] = {"criterion": CRITERIA, "evaluator": EVALUATORS, "rectify": WAYS}
_TYPES: Mapping[str, type] = {
    "criterion": str,
    "evaluator": str,
    "rectify": str,
    "seed": int,
    "data": str,
    "limit": int,
}
