"""Models of other packages, untrained: nothing here ever downloads weights."""

from __future__ import annotations

import contextlib
import copy
import difflib
import importlib
import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

from torch import nn

from reconvene.errors import MissingExtraError, ModelError, UnknownNameError
from reconvene.models.binding import Build, ModelArgument, bind, built, whole_number

Located = tuple[Build, tuple[int, ...] | None]


def torchvision(name: str, args: Mapping[str, ModelArgument], *, fetch: bool = False) -> Located:
    """A torchvision model by its name; images of 224x224 (299x299 for Inception) unless it is no image classifier.

    ``fetch`` makes no difference: nothing of it is ever looked up on a hub.
    """
    models = _optional("torchvision.models", "vision", f"torchvision:{name}")
    if name not in models.list_models():
        raise _unknown("torchvision", name, models.list_models())
    builder = models.get_model_builder(name)
    _require_data(args, _parameters(builder), f"torchvision:{name}")
    # Segmentation and detection would fetch a trained backbone by default; two builders warn unless told to initialize.
    named = inspect.signature(builder).parameters
    fixed: dict[str, Any] = {key: None for key in ("weights", "weights_backbone") if key in named}
    if name in ("inception_v3", "googlenet") and "init_weights" not in args:
        fixed["init_weights"] = True
    shape: tuple[int, ...] | None = (3, 299, 299) if name == "inception_v3" else (3, 224, 224)
    if builder.__module__.split(".")[2] in ("video", "optical_flow", "detection"):
        shape = None
    return bind(builder, args, f"torchvision:{name}", **fixed), shape


def timm(name: str, args: Mapping[str, ModelArgument], *, fetch: bool = False) -> Located:
    """A timm model by its name; the input shape is that of its own configuration, or of ``img_size`` where given.

    ``fetch`` makes no difference: nothing of it is ever looked up on a hub.
    """
    package = _optional("timm", "vision", f"timm:{name}")
    if not package.is_model(name):
        raise _unknown("timm", name, package.list_models())
    _require_data(args, _parameters(package.model_entrypoint(name)), f"timm:{name}")
    config = package.get_pretrained_cfg(name)
    channels, height, width = config.input_size if config is not None else (3, 224, 224)
    channels = whole_number(args, "in_chans", channels, f"timm:{name}")
    if "img_size" in args:
        height = width = whole_number(args, "img_size", 224, f"timm:{name}")
    build = package.create_model
    return bind(build, {**args, "model_name": name}, f"timm:{name}", pretrained=False), (channels, height, width)


def transformers(name: str, args: Mapping[str, ModelArgument], *, fetch: bool = False) -> Located:
    """An image classifier of transformers from a configuration: a model type, a local folder or file, or a hub id.

    Only the configuration is read; ``args`` override its entries. A hub id is looked up on the hub where ``fetch`` is
    set, else among what was fetched to this machine before.
    """
    package = _optional("transformers", "transformers", f"transformers:{name}")
    types = importlib.import_module("transformers.models.auto.configuration_auto").CONFIG_MAPPING_NAMES
    address = f"transformers:{name}"
    if not name or (name not in types and "/" not in name and not Path(name).exists()):
        raise _unknown("transformers", name, types)

    if name in types and not Path(name).exists():
        read = partial(package.AutoConfig.for_model, name)
    else:
        location = name if fetch or Path(name).exists() else _fetched(name, address)
        read = partial(package.AutoConfig.from_pretrained, location, trust_remote_code=False)
    plain = built(address, read)
    _require_data(args, {*plain.to_dict(), "num_labels"}, address)
    config = built(address, lambda: read(**args)) if args else plain
    size = getattr(config, "image_size", None)
    channels = getattr(config, "num_channels", 3)
    height, width = size if isinstance(size, list | tuple) else (size or 224, size or 224)
    build = package.AutoModelForImageClassification.from_config
    return lambda: built(address, lambda: build(copy.deepcopy(config))), (channels, height, width)


def smp(name: str, args: Mapping[str, ModelArgument], *, fetch: bool = False) -> Located:
    """An architecture of segmentation_models_pytorch, such as ``smp:Unet``; its encoder is untrained, too.

    ``fetch`` makes no difference: nothing of it is ever looked up on a hub.
    """
    package = _optional("segmentation_models_pytorch", "medical", f"smp:{name}")
    architectures = {entry.__name__: entry for entry in package.MODEL_ARCHITECTURES_MAPPING.values()}
    if name not in architectures:
        raise _unknown("segmentation_models_pytorch", name, architectures)
    _require_data(args, _parameters(architectures[name]) - {"encoder_weights"}, f"smp:{name}")
    shape = (whole_number(args, "in_channels", 3, f"smp:{name}"), 256, 256)
    return bind(architectures[name], args, f"smp:{name}", encoder_weights=None), shape


def monai(name: str, args: Mapping[str, ModelArgument], *, fetch: bool = False) -> Located:
    """A network of MONAI, such as ``monai:BasicUNet`` with ``spatial_dims=2``.

    ``fetch`` makes no difference: nothing of it is ever looked up on a hub.
    """
    nets = _optional("monai.networks.nets", "medical", f"monai:{name}")
    networks = [
        entry for entry, value in vars(nets).items() if isinstance(value, type) and issubclass(value, nn.Module)
    ]
    if name not in networks:
        raise _unknown("monai", name, networks)
    network = getattr(nets, name)
    _require_data(args, inspect.signature(network).parameters, f"monai:{name}")
    sides = (128,) * whole_number(args, "spatial_dims", 3, f"monai:{name}")
    return bind(network, args, f"monai:{name}"), (whole_number(args, "in_channels", 1, f"monai:{name}"), *sides)


def _fetched(name: str, address: str) -> str:
    """The folder in the hub's cache with the configuration ``name``. Raises ModelError where it was not fetched."""
    # Not local_files_only: with it transformers still asks the hub when the file is not there.
    find = importlib.import_module("huggingface_hub").try_to_load_from_cache
    try:
        path = find(name, "config.json")
    except ValueError as error:  # no name of a repository
        raise ModelError(f"{address}: {error}") from error
    if not isinstance(path, str):
        raise ModelError(
            f"{address} is a configuration on the hub that was not fetched to this machine, and building a model never "
            f"goes there. First: reconvene inspect {address}, or reconvene.models.resolve_address({address!r})"
        )
    return str(Path(path).parent)


class Family(Protocol):
    """How an address ``FAMILY:NAME`` is resolved."""

    def __call__(self, name: str, args: Mapping[str, ModelArgument], *, fetch: bool = False) -> Located:
        """How to build ``name`` with ``args``, and its input shape; ``fetch`` allows a look-up on a hub."""


FAMILIES: dict[str, Family] = {
    "torchvision": torchvision,
    "timm": timm,
    "transformers": transformers,
    "smp": smp,
    "monai": monai,
}
CLASSES = {"transformers": "num_labels", "smp": "classes", "monai": "out_channels"}
"""By family, the argument that says how many outputs a model has; elsewhere ``num_classes``."""


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


def _parameters(builder: Callable[..., Any]) -> set[str]:
    """Names that a builder, or the classes and functions of its file that it hands arguments on to, takes."""
    module = importlib.import_module(builder.__module__)
    definitions = [value for value in vars(module).values() if getattr(value, "__module__", None) == module.__name__]
    names: set[str] = set()
    for candidate in (builder, *(value for value in definitions if callable(value))):
        with contextlib.suppress(TypeError, ValueError):  # what has no signature takes nothing by name
            names |= set(inspect.signature(candidate).parameters)
    return names - {"kwargs", "args"}


def _require_data(args: Mapping[str, ModelArgument], parameter_names: Iterable[str], address: str) -> None:
    """Raise ModelError unless every argument is data of the architecture: a size, a rate, a switch, a plain word.

    An artifact must not be able to ask for weights, a download or code from elsewhere, so what is allowed is derived
    from the architecture, and names and texts that could lead elsewhere are refused.
    """
    allowed = {name for name in parameter_names if not _LEADS_ELSEWHERE.search(name)}
    for name, value in args.items():
        if name not in allowed:
            similar = difflib.get_close_matches(name, allowed, n=8, cutoff=0.4)
            raise ModelError(
                f"{address}: argument {name!r} is refused: models are built untrained, from code that is installed and "
                f"by data of the architecture" + (f", such as {', '.join(similar)}" if similar else "")
            )
        if isinstance(value, str) and not _WORD.fullmatch(value):
            raise ModelError(f"{address}: argument {name}={value!r} is refused: text must be a plain word such as gelu")


_LEADS_ELSEWHERE = re.compile(
    "^_|pretrained|^weights|checkpoint|cache_dir|download|remote|revision|^token$|auth_token|prox|url|file|hub|backbone|"
    "timm|implementation|auto_map|scriptable|exportable|jit|local_files"
)
"""In names of arguments: what loads weights, fetches, imports, or chooses code."""
_WORD = re.compile(r"[A-Za-z0-9_.+-]*")
