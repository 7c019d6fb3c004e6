"""A fleet's file: devices with budgets, architectures, and what to do with each."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

from reconvene.costs import COSTS, Budget, targets
from reconvene.criteria import CRITERIA
from reconvene.data import count_images
from reconvene.deploy.quantisation import PRECISIONS
from reconvene.deploy.runtimes.registry import FORMATS, memory_planners
from reconvene.devices import HERE, find
from reconvene.errors import DataError, DeviceError, FleetError, ModelError, UnknownNameError
from reconvene.evaluator import EVALUATORS
from reconvene.models import ModelSource, resolve_address
from reconvene.planning.arguments import budget_argument
from reconvene.planning.target import Target
from reconvene.rectifier import RECTIFICATIONS
from reconvene.tasks import DEFAULT, TASKS
from reconvene.training.recipe import read_recipe
from reconvene.utils.invalid_values import Place
from reconvene.utils.settings import DISTINCT, LISTED, Argument, Names, Positive, Seed, Settings, Shape, one_of
from reconvene.utils.settings_files import read_settings

Formats = Annotated[tuple[Annotated[str, one_of(FORMATS)], ...], DISTINCT, LISTED]


@dataclass(frozen=True, kw_only=True)
class DeviceOptions:
    """What a device may say beside its budget: the profile that latencies are kept by, the formats it loads."""

    profile: str | None = None
    round_to: Positive | None = None
    export: Formats = ()
    models: Names = ()
    memory_of: Annotated[str, one_of(memory_planners)] | None = None
    precision: Annotated[str, one_of(PRECISIONS)] | None = None
    chip: Annotated[str, one_of(targets)] | None = None


@dataclass(frozen=True, kw_only=True)
class Device(DeviceOptions):
    """One device."""

    name: str
    budget: Budget

    @property
    def target(self) -> Target:
        """What its budget is about: sizes are those of the files it loads."""
        return Target(self.profile, self.export, self.memory_of, self.precision, self.chip)


@dataclass(frozen=True, kw_only=True)
class FleetOptions:
    """What a file says about all devices; ``data``, ``task`` and ``limit`` as for ``reconvene.data.load_data``."""

    models: Names
    args: dict[str, Argument] = field(default_factory=dict)
    input: Shape | None = None
    criterion: Annotated[str, one_of(CRITERIA)] | None = None
    evaluator: Annotated[str, one_of(EVALUATORS)] = "fan_in"
    rectify: Annotated[str, one_of(RECTIFICATIONS)] = "reinit"
    seed: Seed = 0
    data: str = "digits"
    task: Annotated[str, one_of(TASKS)] = DEFAULT.name
    limit: Positive | None = None
    export: Formats = ()


@dataclass(frozen=True, kw_only=True)
class Fleet(FleetOptions):
    """Everything the file asks for. ``train``: the recipe with ``epochs``, empty for none."""

    devices: tuple[Device, ...]
    train: dict[str, Any] = field(default_factory=dict)


def read_fleet(path: str | Path) -> Fleet:
    """Read a fleet's file, YAML or TOML; models of the user's own are not imported yet.

    Raises FleetError with the line at fault, MissingExtraError without PyYAML or what a model comes with.
    """
    settings = read_settings(path, error=FleetError, usual="yaml")
    options = settings.read(FleetOptions, besides=("devices", "train"))
    if "devices" not in settings.values:
        settings.fail((), "a fleet needs devices")
    folder = Path(path).parent
    _check_models(settings, options)
    options = replace(options, data=_find_data(settings, options, folder))
    devices = [_read_device(settings, name, options, folder) for name in settings.table(("devices",))]
    if not devices:
        settings.fail(("devices",), "there is no device")
    train = read_recipe(settings, ("train",), epochs=True) if "train" in settings.values else {}
    return Fleet(**vars(options), devices=tuple(devices), train=train)


def _read_device(settings: Settings, name: str, fleet: FleetOptions, folder: Path) -> Device:
    place: Place = ("devices", name)
    reserved = name in ("index.html", "fleet.json") or (name.startswith("front-") and name.endswith(".svg"))
    plain = name.isprintable() and len(name) <= 100 and not reserved
    if not plain or not name or Path(name).name != name or name.startswith("."):
        settings.fail(place, f"device {name!r} becomes a folder: give it a plain name")
    options = settings.read(DeviceOptions, place, besides=COSTS)
    budget = budget_argument(settings, place)
    if options.memory_of is not None and budget.peak_memory is None:
        settings.fail((*place, "memory_of"), f"device {name}: memory_of is about peak_memory, which has no budget here")
    if unknown := [model for model in options.models if model not in fleet.models]:
        settings.fail(
            (*place, "models"), f"device {name}: the fleet has no model {unknown[0]!r}: {', '.join(fleet.models)}"
        )
    options = _with_profile(settings, place, options, folder)
    options = replace(options, export=options.export if "export" in settings.at(place) else fleet.export)
    return Device(**vars(options), name=name, budget=budget)


def _with_profile(settings: Settings, place: Place, options: DeviceOptions, folder: Path) -> DeviceOptions:
    """With the profile's path from here and its precision; it is read now, not after other devices were planned."""
    if options.profile is None or options.profile == HERE:
        return options
    profile = str(folder / options.profile) if options.profile.endswith(".json") else options.profile
    try:
        precision = find(profile).precision
    except (DeviceError, UnknownNameError) as error:
        settings.fail((*place, "profile"), f"device {place[-1]}: {error}")
    if options.precision not in (None, precision):
        settings.fail(
            (*place, "profile"),
            f"device {place[-1]}: precision is {options.precision}, and its profile was measured in {precision}",
        )
    return replace(options, profile=profile, precision=precision)


def _check_models(settings: Settings, options: FleetOptions) -> None:
    """Look every architecture up."""
    for index, name in enumerate(options.models):
        try:
            if not ModelSource(name).imports:
                resolve_address(name, options.args, input_shape=options.input)
        except (ModelError, UnknownNameError) as error:
            listed = isinstance(settings.at(("models",)), list)
            settings.fail(("models", index) if listed else ("models",), str(error))


def _find_data(settings: Settings, options: FleetOptions, folder: Path) -> str:
    """The data, a path from where the file is; looked up unless they are an id on the hub, but not read."""
    spec = options.data
    local_path = folder / Path(spec).expanduser()
    is_path = spec != "digits" and (local_path.exists() or Path(spec).exists())
    location = str(local_path.resolve()) if is_path else spec
    try:
        count_images(location, task=options.task)
    except DataError as error:
        settings.fail(("data",), f"{error} A path is from the folder of this file")
    return location
