"""What an experiment names outside its file, looked up before a run begins: models, the profile of a device, data."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from pathlib import Path

from reconvene import devices
from reconvene.data import require_data_at
from reconvene.errors import DataError, DeviceError, ExperimentError, MissingExtraError, ModelError, UnknownNameError
from reconvene.models import MODELS, ModelSource, resolve_address
from reconvene.utils.invalid_values import Place
from reconvene.utils.settings import Argument, Settings

_SHAPE = (3, 32, 32)
"""Of a model that is looked up alone: in a run it is that of the data."""
_PLAIN = (bool, int, float, str)


def check_model(
    settings: Settings, place: Place, model: str, args: Mapping[str, Argument], shape: tuple[int, ...] | None
) -> None:
    """Fail at a model, an argument or a shape of input that no run could be done with. Nothing is built or fetched."""
    if shape is not None and (len(shape) != 3 or shape[0] not in (1, 3)):
        settings.fail(
            (*place, "input"), f"input {'x'.join(map(str, shape))} is no shape of images: 1xHxW (grey) or 3xHxW (RGB)"
        )
    if ModelSource(model).imports:
        settings.fail(
            (*place, "model"),
            f"{model} is a model of your own, and an experiment imports none by its address. A plugin may add it to "
            "reconvene.models.MODELS",
        )
    family, _, name = model.partition(":")
    if family == "transformers" and "/" in name and not Path(name).exists():
        return  # its configuration is on the hub
    try:
        resolve_address(model, args, input_shape=shape or _SHAPE)
    except (UnknownNameError, MissingExtraError) as error:
        settings.fail((*place, "model"), str(error))
    except ModelError as error:
        settings.fail((*place, "args"), str(error))
    if model in MODELS:
        _check_types(settings, (*place, "args"), model, args)


def _check_types(settings: Settings, place: Place, model: str, args: Mapping[str, Argument]) -> None:
    """Fail at an argument of one of our models that is of another type than its usual value."""
    parameters = inspect.signature(MODELS[model]).parameters
    for name, value in args.items():
        usual = type(parameters[name].default) if name in parameters else None
        if usual in _PLAIN:
            settings.check(usual, value, (*place, name))


def check_device(settings: Settings, device: str | None) -> None:
    """Fail at a device of which there is no profile."""
    if device in (None, devices.HERE):
        return
    try:
        devices.find(str(device))
    except DeviceError as error:
        settings.fail(("device",), str(error))


def require_data(locations: Mapping[str, str], names: Iterable[str], places: Mapping[str, str]) -> None:
    """Raise ExperimentError for the first data of ``names`` that are not where they are said to be on this machine.

    ``places``: where the file says so. An id on the hub passes: it is looked up by the run.
    """
    for name in dict.fromkeys(names):
        try:
            require_data_at(locations[name])
        except DataError as error:
            where = places.get(name, "the experiment")
            raise ExperimentError(f"{where}: data {name!r}: {error} Elsewhere: --data {name}=PATH") from error
