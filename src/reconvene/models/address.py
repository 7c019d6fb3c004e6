"""Model addresses.

``vgg16_bn`` (ours), ``torchvision:NAME``, ``timm:NAME``, ``transformers:CONFIG-OR-ID``, ``smp:NAME``
(segmentation_models_pytorch), ``monai:NAME``; of the user's own:
``package.module:callable`` and ``folder/file.py:callable``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from reconvene.errors import ModelError, suggestion
from reconvene.models.binding import Build, ModelArgument, bind, whole_number
from reconvene.models.families import CLASSES, FAMILIES
from reconvene.models.registry import MODELS
from reconvene.models.seeding import seeded
from reconvene.models.suggestions import unknown_model
from reconvene.models.user_code import code_sha256, import_callable, importing_from
from reconvene.surgery.operations import substitute
from reconvene.utils.resources import require_memory


@dataclass(frozen=True)
class ModelSource:
    """How to build an untrained model again: all an artifact needs to know of it.

    Attributes:
        address: see the module's docstring.
        args: what its constructor is given, by name.
        input_shape: shape of one example without the batch dimension, such as ``(3, 32, 32)``.
        seed: what its weights are drawn from.
        replaced: forms in the place of modules, by path: see ``reconvene.surgery.operations``.
    """

    address: str
    args: Mapping[str, ModelArgument] = field(default_factory=dict)
    input_shape: tuple[int, ...] | None = None
    seed: int = 0
    replaced: Mapping[str, str] = field(default_factory=dict)

    def build(self, *, allow_import: bool = False) -> nn.Module:
        """Build the model: the same seed gives the same bytes, and the global random state is as it was.

        ``allow_import`` lets a ``package.module:callable`` address be imported, which runs that module's code.

        Raises ModelError, UnknownNameError, MissingExtraError.
        """
        build, _ = _locate(self.address, self.args, allow_import=allow_import)
        with seeded(self.seed):
            model = build()
        if not isinstance(model, nn.Module):
            raise ModelError(f"{self.address} returned {type(model).__name__}, not a torch.nn.Module")
        substitute(model, self.replaced)
        object.__setattr__(model, "reconvene_source", self)  # a note for ``rc.save``, no part of the module
        return model

    def with_classes(self, classes: int) -> ModelSource:
        """The same model with as many outputs as there are classes.

        Left as it is where the arguments say how many already, and for a model of the user's own, whose arguments are
        not known here.
        """
        name = CLASSES.get(self.address.partition(":")[0], "num_classes")
        if self.imports or name in self.args:
            return self
        return replace(self, args={**self.args, name: classes})

    @property
    def imports(self) -> bool:
        """Whether building it imports a module of the user's choice, and so needs ``allow_import``."""
        prefix, colon, _ = self.address.partition(":")
        return bool(colon) and prefix not in FAMILIES

    def code_sha256(self, *, allow_import: bool = False) -> str | None:
        """Digest of the code that builds a model of the user's own, which is imported; None for the others.

        Raises ModelError, UnknownNameError.
        """
        return code_sha256(_import_own(self.address, allow_import=allow_import)) if self.imports else None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        shape = None if self.input_shape is None else list(self.input_shape)
        source = {"address": self.address, "args": dict(self.args), "input_shape": shape, "seed": self.seed}
        return {**source, "replaced": dict(self.replaced)} if self.replaced else source

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ModelSource:
        """Undo ``to_dict``; only ``address`` must be there. Raises ModelError on anything that does not fit."""
        try:
            address, args, seed = data["address"], dict(data.get("args") or {}), data.get("seed", 0)
            replaced = {str(path): str(form) for path, form in (data.get("replaced") or {}).items()}
            shape = data.get("input_shape")
            input_shape = None if shape is None else tuple(int(size) for size in shape)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ModelError(f"not the source of a model: {data!r} ({error})") from error
        if not isinstance(address, str) or not isinstance(seed, int):
            raise ModelError(f"not the source of a model: {data!r}")
        for name, value in args.items():
            if not isinstance(name, str) or not isinstance(value, int | float | bool | str):
                raise ModelError(f"model argument {name!r} is {value!r}: only int, float, bool and str can be recorded")
        return cls(address, args, input_shape, seed, replaced)


def resolve_address(
    address: str,
    args: Mapping[str, ModelArgument] | None = None,
    *,
    input_shape: tuple[int, ...] | None = None,
    seed: int = 0,
    allow_import: bool = False,
) -> ModelSource:
    """Check that ``address`` names a model and fill in its own input shape where none is given.

    Only here is anything looked up on a hub: the configuration of ``transformers:OWNER/NAME``. ``ModelSource.build``,
    and so the loading of an artifact, finds it on this machine or fails.

    Raises UnknownNameError (lists what exists), MissingExtraError, and ModelError where the import is not allowed or
    no input shape is known.
    """
    arguments = dict(args or {})
    _, own_shape = _locate(address, arguments, allow_import=allow_import, fetch=True)
    shape = input_shape or own_shape
    if shape is None:
        raise ModelError(f"{address} does not say what input it takes. Give its shape, such as 3x224x224 (--input)")
    return ModelSource(address, arguments, shape, seed)


def example_inputs(shape: tuple[int, ...], *, batch: int = 1, seed: int = 0) -> Tensor:
    """Standard normal float32 ``[batch, *shape]`` drawn from ``seed`` alone.

    Raises ResourceError where the machine has not as much memory.
    """
    sizes = "x".join(map(str, shape))
    require_memory(4 * batch * math.prod(shape), f"an input of {sizes}", "Try a smaller shape (--input)")
    return torch.randn(batch, *shape, generator=torch.Generator().manual_seed(seed))


def parse_arguments(pairs: Iterable[str]) -> dict[str, ModelArgument]:
    """``["num_classes=10", "width=0.5", "bias=false"]`` to named values: int, float, bool (true / false), else str.

    Raises ModelError for a pair without ``=``, a name given twice, or a number that is not finite.
    """
    args: dict[str, ModelArgument] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals or not name.isidentifier():
            raise ModelError(f"model argument {pair!r} is not name=value, such as num_classes=10")
        if name in args:
            raise ModelError(f"model argument {name!r} is given twice")
        args[name] = _value(text)
    _require_finite(args)
    return args


def _require_finite(args: Mapping[str, ModelArgument]) -> None:
    for name, value in args.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise ModelError(f"model argument {name}={value} is not finite. Give a number, such as {name}=0.5")


def _value(text: str) -> ModelArgument:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for number_type in (int, float):
        try:
            return number_type(text)
        except ValueError:
            continue
    return text


def _locate(
    address: str, args: Mapping[str, ModelArgument], *, allow_import: bool, fetch: bool = False
) -> tuple[Build, tuple[int, ...] | None]:
    """How to build what the address names, and the input shape it is made for."""
    _require_finite(args)
    prefix, colon, name = address.partition(":")
    if not colon:
        if address not in MODELS:
            raise unknown_model(address, MODELS)
        return bind(MODELS[address], args, address), (whole_number(args, "in_channels", 3, address), 32, 32)
    if prefix in FAMILIES:
        return FAMILIES[prefix](name, args, fetch=fetch)
    build = bind(_import_own(address, allow_import=allow_import), args, address)

    def build_here() -> nn.Module:
        with importing_from(address.rpartition(":")[0]):  # a constructor may import, too
            return build()

    return build_here, None


def _import_own(address: str, *, allow_import: bool) -> Callable[..., Any]:
    """The callable of a user's own address. Raises ModelError, UnknownNameError."""
    location, _, name = address.rpartition(":")  # the path of a file may hold a colon
    if not allow_import:
        prefix = address.partition(":")[0]
        raise ModelError(
            f"{address} would import {location!r}, which runs its code.{suggestion(prefix, FAMILIES)} If you trust it, "
            "say so: --allow-import, or allow_import=True"
        )
    return import_callable(location, name)
