"""How a model was built, where nobody said so: candidates are built and compared, so nothing is guessed."""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from reconvene.errors import ArtifactError, ReconveneError
from reconvene.models import ModelSource
from reconvene.surgery.history import NOTES

if TYPE_CHECKING:
    from reconvene.surgery import Plan

# Notes on a module, ours and those of timm's factory, say nothing about what it computes.
_NOTES = {*vars(nn.Module()), *NOTES, "reconvene_source", "_model_args"}


def derive(model: nn.Module, plans: Sequence[Plan]) -> ModelSource:
    """The source that gives just this model: the same classes, attributes and shapes in every module.

    Tried are the builders of torchvision and timm, and the model's own class with the arguments that it keeps as
    attributes or has defaults for. The input shape stays unknown. Raises ArtifactError where none gives this model.
    """
    target_signature = signature(model)
    for source in _candidates(model, plans):
        # On the meta device nothing is drawn or computed, so trying a whole family of builders takes no time.
        device = torch.device("meta") if source.address.startswith("torchvision:") else contextlib.nullcontext()
        with contextlib.suppress(ReconveneError), device:
            built = source.build(allow_import=True)
            for plan in plans:
                built = plan.apply(built)
            if signature(built) == target_signature:
                return source
    model_class = type(model)
    raise ArtifactError(
        f"an artifact says how to build its model, and how this {model_class.__module__}:{model_class.__qualname__} "
        'was built is not known here. Pass source={"address": "package.module:callable", "args": {...}, "input_shape": '
        "[...]}, with a callable that can be imported"
    )


def signature(model: nn.Module) -> list[tuple[Any, ...]]:
    """The properties that two models that compute alike share: classes, attributes and shapes, module by module.

    Attributes that cannot be compared are equal only to themselves, so that they make models differ.
    """
    places: list[tuple[Any, ...]] = []
    for name, module in model.named_modules(remove_duplicate=False):
        attributes = {key: _comparable(value) for key, value in vars(module).items() if key not in _NOTES}
        places.append((name, type(module), attributes))
    return places + [(name, tuple(tensor.shape)) for name, tensor in model.state_dict().items()]


def _comparable(value: Any) -> Any:
    if isinstance(value, nn.Module):
        return type(value)  # it is a place of its own
    if isinstance(value, torch.Tensor | np.ndarray):
        return tuple(value.shape), str(value.dtype)
    if isinstance(value, functools.partial):
        return value.func, _comparable(value.args), _comparable(value.keywords)
    if isinstance(value, tuple | list):
        return [_comparable(item) for item in value]
    if isinstance(value, dict):
        return {key: _comparable(item) for key, item in value.items()}
    return value


def _candidates(model: nn.Module, plans: Sequence[Plan]) -> Iterator[ModelSource]:
    model_class = type(model)
    family = model_class.__module__.partition(".")[0]
    if family == "torchvision":
        yield from _torchvision(model, plans)
    elif family == "timm":
        yield from _timm(model)
    elif model_class.__module__ != "__main__" and "<locals>" not in model_class.__qualname__:
        yield from _own_class(model)


def _torchvision(model: nn.Module, plans: Sequence[Plan]) -> Iterator[ModelSource]:
    """Builders from the file of the class, with its own number of classes and with that of the last parameter."""
    from torchvision import models

    shapes = plans[0].shapes if plans else {name: list(p.shape) for name, p in model.named_parameters()}
    last = [name for name, _ in model.named_parameters()][-1]
    for name in models.list_models():
        if models.get_model_builder(name).__module__ == type(model).__module__:
            yield ModelSource(f"torchvision:{name}")
            yield ModelSource(f"torchvision:{name}", {"num_classes": shapes[last][0]})


def _timm(model: nn.Module) -> Iterator[ModelSource]:
    """The models of timm know their own name."""
    config = getattr(model, "pretrained_cfg", None) or {}
    name, classes = config.get("architecture"), getattr(model, "num_classes", None)
    if isinstance(name, str):
        yield ModelSource(f"timm:{name}")
        if isinstance(classes, int):
            yield ModelSource(f"timm:{name}", {"num_classes": classes})


def _own_class(model: nn.Module) -> Iterator[ModelSource]:
    args: dict[str, int | float | bool | str] = {}
    for name, parameter in inspect.signature(type(model)).parameters.items():
        value = getattr(model, name, None)
        if isinstance(value, int | float | bool | str):
            args[name] = value
        elif parameter.default is inspect.Parameter.empty:
            return
    model_class = type(model)
    yield ModelSource(f"{model_class.__module__}:{model_class.__qualname__}", args)
