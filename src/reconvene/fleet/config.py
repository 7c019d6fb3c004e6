"""Reading a fleet's file: names and paths are looked up, and every error has its line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from reconvene.costs import COSTS, Budget, cost_named, targets
from reconvene.costs.cost_file import ChipCost
from reconvene.data import count_images
from reconvene.devices import HERE, find
from reconvene.errors import DataError, DeviceError, FleetError
from reconvene.fleet.networks import find_bases, find_weights, recorded_task_of
from reconvene.fleet.options import Device, DeviceOptions, Fleet, FleetOptions, Int8Settings
from reconvene.planning.arguments import budget_argument
from reconvene.planning.options import default_rectification
from reconvene.planning.target import chip_costs
from reconvene.tasks import DEFAULT
from reconvene.training.recipe import read_recipe
from reconvene.utils.invalid_values import Place
from reconvene.utils.settings import Settings
from reconvene.utils.settings_files import read_settings

_NO_DEVICES = "there are no devices. Try: devices: {phone: {macs: 2x}}"


def read_fleet(path: str | Path) -> Fleet:
    """Read a fleet's file, YAML or TOML; models of the user's own are not imported yet.

    Raises FleetError with the line at fault, MissingExtraError without PyYAML or what a model comes with.
    """
    settings = read_settings(path, error=FleetError, usual="yaml")
    options = settings.read(FleetOptions, besides=("devices", "train", "int8"))
    if "devices" not in settings.values:
        settings.fail((), _NO_DEVICES)
    folder = Path(path).parent
    bases = find_bases(settings, options, folder)
    options = _completed(settings, options, bases, folder)
    devices = [_read_device(settings, name, options, folder) for name in settings.table(("devices",))]
    if not devices:
        settings.fail(("devices",), _NO_DEVICES)
    train = read_recipe(settings, ("train",), epochs=True) if "train" in settings.values else {}
    int8 = None
    if "int8" in settings.values:
        int8 = _read_int8(settings, devices, judged=bool(train) or options.trained)
    where = _where(settings, options, devices)
    return Fleet(**vars(options), devices=tuple(devices), train=train, int8=int8, bases=bases, where=where)


def _where(settings: Settings, options: FleetOptions, devices: Sequence[Device]) -> dict[str, str]:
    """File and line of what can turn out to be wrong when networks are planned."""
    listed = isinstance(settings.at(("models",)), list)
    places: dict[str, Place] = {f"devices.{device.name}": ("devices", device.name) for device in devices}
    for index, model in enumerate(options.models):
        places[f"models.{model}"] = ("models", index) if listed else ("models",)
    places["keep"] = ("keep",)
    return {name: settings.where(place) for name, place in places.items()}


def _read_int8(settings: Settings, devices: Sequence[Device], *, judged: bool) -> Int8Settings:
    """How int8 is made; what says nothing about this fleet is an error."""
    int8 = settings.read(Int8Settings, ("int8",))
    if not any(device.precision == "int8" for device in devices):
        settings.fail(("int8",), "no device runs int8: give one precision: int8")
    for name in ("min_agreement", "max_accuracy_drop"):
        if name in settings.at(("int8",)) and not judged:
            settings.fail(("int8", name), f"{name} is about trained networks, and nothing is trained here")
    return int8


def _completed(settings: Settings, options: FleetOptions, bases: Mapping[str, Path], folder: Path) -> FleetOptions:
    """With what follows from other keys where the file does not say it, and paths from here."""
    if options.trained and "data" not in settings.values:
        settings.fail(("trained",), "trained networks are cut, repaired and judged on images: name them with data")
    options = replace(
        options,
        task=options.task or recorded_task_of(settings, bases),
        evaluator=options.evaluator or (None if options.trained else "fan_in"),
        rectify=options.rectify or default_rectification(trained=options.trained, with_data=True),
        weights=find_weights(settings, options, bases, folder),
    )
    return replace(options, data=_find_data(settings, options, folder))


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
    _require_meaning(settings, place, options, budget)
    return Device(**vars(options), name=name, budget=budget)


def _require_meaning(settings: Settings, place: Place, options: DeviceOptions, budget: Budget) -> None:
    """Fail at a limit that nothing here predicts, and at int8 where everything that is counted is in float32."""
    of_chip = {} if options.chip is None else chip_costs(options.chip)
    for cost in budget.asked:
        if isinstance(cost_named(cost), ChipCost) and cost not in of_chip:
            chips = ", ".join(name for name in targets() if cost in chip_costs(name))
            settings.fail(
                (*place, cost), f"device {place[-1]}: {cost} depends on a chip. Name it, chip: one of {chips}"
            )
    asked = options.precision == "int8" and "precision" in settings.at(place)
    if not asked or options.export or options.chip is not None:  # networks of a chip are compiled in int8
        return
    if "size" in budget:
        why = "size in int8 is about exported files, and this device has none. Add export: [onnx]"
        settings.fail((*place, "size"), f"device {place[-1]}: {why}")
    if options.profile is None and "latency" not in budget and options.memory_of is None:
        why = "precision is about exported files, latency and memory_of, and this device has none. Add export: [onnx]"
        settings.fail((*place, "precision"), f"device {place[-1]}: {why}")


def _with_profile(settings: Settings, place: Place, options: DeviceOptions, folder: Path) -> DeviceOptions:
    """With the profile's path from here and its precision; it is read now, not after other devices were planned."""
    if options.profile is None or options.profile == HERE:
        return options
    profile = str(folder / options.profile) if options.profile.endswith(".json") else options.profile
    try:
        precision = find(profile).precision
    except DeviceError as error:
        settings.fail((*place, "profile"), f"device {place[-1]}: {error}")
    if options.precision not in (None, precision):
        settings.fail(
            (*place, "profile"),
            f"device {place[-1]}: precision is {options.precision}, and its profile was measured in {precision}",
        )
    return replace(options, profile=profile, precision=precision)


def _find_data(settings: Settings, options: FleetOptions, folder: Path) -> str:
    """The data, a path from where the file is; looked up unless they are an id on the hub, but not read."""
    spec = options.data
    local_path = folder / Path(spec).expanduser()
    is_path = spec != "digits" and (local_path.exists() or Path(spec).exists())
    location = str(local_path.resolve()) if is_path else spec
    try:
        count_images(location, task=options.task or DEFAULT)
    except DataError as error:
        settings.fail(("data",), f"{error} A path is from the folder of this file")
    return location
