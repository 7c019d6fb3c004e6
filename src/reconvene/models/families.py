"""Models of other packages, untrained: nothing here ever downloads weights."""

from __future__ import annotations

import copy
import difflib
import importlib
import inspect
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from reconvene.errors import MissingExtraError, ModelError, UnknownNameError
from reconvene.models.binding import Argument, Build, bind, built

Located = tuple[Build, tuple[int, ...] | None]


def torchvision(name: str, args: Mapping[str, Argument]) -> Located:
    """A torchvision model by its name; images of 224x224 (299x299 for Inception) unless it is no image classifier."""
    models = _optional("torchvision.models", "vision", f"torchvision:{name}")
    _refuse(("weights", "weights_backbone"), args, f"torchvision:{name}")
    if name not in models.list_models():
        raise _unknown("torchvision", name, models.list_models())
    builder = models.get_model_builder(name)
    # Segmentation and detection would fetch a trained backbone by default; two builders warn unless told to initialise.
    named = inspect.signature(builder).parameters
    fixed: dict[str, Any] = {key: None for key in ("weights", "weights_backbone") if key in named}
    if name in ("inception_v3", "googlenet") and "init_weights" not in args:
        fixed["init_weights"] = True
    shape: tuple[int, ...] | None = (3, 299, 299) if name == "inception_v3" else (3, 224, 224)
    if builder.__module__.split(".")[2] in ("video", "optical_flow", "detection"):
        shape = None
    return bind(builder, args, f"torchvision:{name}", **fixed), shape


def timm(name: str, args: Mapping[str, Argument]) -> Located:
    """A timm model by its name; the input shape is that of its own configuration, or of ``img_size`` where given."""
    package = _optional("timm", "vision", f"timm:{name}")
    _refuse(("pretrained", "checkpoint_path", "pretrained_cfg", "pretrained_cfg_overlay"), args, f"timm:{name}")
    if not package.is_model(name):
        raise _unknown("timm", name, package.list_models())
    config = package.get_pretrained_cfg(name)
    channels, height, width = config.input_size if config is not None else (3, 224, 224)
    channels = int(args.get("in_chans", channels))
    if "img_size" in args:
        height = width = int(args["img_size"])
    build = package.create_model
    return bind(build, {**args, "model_name": name}, f"timm:{name}", pretrained=False), (channels, height, width)


def transformers(name: str, args: Mapping[str, Argument]) -> Located:
    """An image classifier of transformers from a configuration: a model type, a local folder or file, or a hub id.

    Only the configuration is read; ``args`` override its entries.
    """
    package = _optional("transformers", "transformers", f"transformers:{name}")
    types = importlib.import_module("transformers.models.auto.configuration_auto").CONFIG_MAPPING_NAMES
    address = f"transformers:{name}"
    _refuse(("trust_remote_code", "code_revision", "auto_map"), args, address)
    if not name or (name not in types and "/" not in name and not Path(name).exists()):
        raise _unknown("transformers", name, types)

    if name in types and not Path(name).exists():
        read = partial(package.AutoConfig.for_model, name)
    else:
        read = partial(package.AutoConfig.from_pretrained, name, trust_remote_code=False)
    config = built(address, lambda: read(**args))
    size = getattr(config, "image_size", None)
    channels = getattr(config, "num_channels", 3)
    height, width = size if isinstance(size, list | tuple) else (size or 224, size or 224)
    build = package.AutoModelForImageClassification.from_config
    return lambda: built(address, lambda: build(copy.deepcopy(config))), (channels, height, width)


FAMILIES: dict[str, Callable[[str, Mapping[str, Argument]], Located]] = {
    "torchvision": torchvision,
    "timm": timm,
    "transformers": transformers,
}


def imported(module: str, name: str) -> Callable[..., Any]:
    """The callable ``name`` (dots allowed) of a module. Importing runs the module: call only when that is allowed."""
    try:
        found: Any = importlib.import_module(module)
    except ImportError as error:
        raise ModelError(f"{module}:{name}: {module} cannot be imported: {error}") from error
    for part in name.split("."):
        if not hasattr(found, part):
            public = [key for key in vars(found) if not key.startswith("_") and callable(getattr(found, key))]
            raise UnknownNameError(f"callable of {module}", name, public)
        found = getattr(found, part)
    if not callable(found):
        raise ModelError(f"{module}:{name} is {type(found).__name__}, nothing that can be called to build a model")
    constructor: Callable[..., Any] = found
    return constructor


def _optional(module: str, extra: str, needed_for: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        package = module.partition(".")[0]
        if (error.name or "").partition(".")[0] != package:
            raise
        raise MissingExtraError(package, extra, needed_for) from error


def _unknown(family: str, name: str, available: Iterable[str]) -> UnknownNameError:
    """Families hold hundreds of names: list the closest ones."""
    names = list(available)
    closest = difflib.get_close_matches(name, names, n=12, cutoff=0.5) or names[:12]
    return UnknownNameError(f"{family} model (the closest of {len(names)} follow)", name, closest)


def _refuse(names: Iterable[str], args: Mapping[str, Argument], address: str) -> None:
    """Arguments that would load weights or run downloaded code: an artifact must not be able to ask for either."""
    for name in names:
        if name in args:
            raise ModelError(
                f"{address}: argument {name!r} is refused: models are built untrained, from code that is installed"
            )
