"""Putting other forms in the place of non-linear operations, at once or by and by while a network trains."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from reconvene.errors import ArtifactError
from reconvene.structure.copies import copy_model
from reconvene.surgery.operations.forms import Replacement

BLENDED_BY = 0.5
"""Share of a training over which operations turn into their new forms."""


def substitute(model: nn.Module, replacements: Mapping[str, str]) -> nn.Module:
    """Put forms in the place of modules, in place: ``{"features.0.1": "relu"}``. Returns the same model.

    Raises ArtifactError where the model has no such module, UnknownNameError for a form that there is not.
    """
    for path, text in replacements.items():
        set_module(model, path, Replacement.parse(text).module(module_at(model, path)))
    return model


def module_at(model: nn.Module, path: str) -> nn.Module:
    """The module of this name. Raises ArtifactError."""
    try:
        return model.get_submodule(path)
    except AttributeError as error:
        raise ArtifactError(
            f"{type(model).__name__} has no module {path!r} whose operation could be replaced"
        ) from error


def set_module(model: nn.Module, path: str, module: nn.Module) -> None:
    """Have ``module`` stand under every name that the module of this name has: one that is shared stays shared."""
    before = module_at(model, path)
    for parent in list(model.modules()):
        for name, child in list(parent._modules.items()):  # named_children() leaves out a second name
            if child is before:
                setattr(parent, name, module)


class Blend(nn.Module):
    """``(1 - share) before(x) + share after(x)``: training moves ``share`` from 0 to 1.

    ``scale`` is the largest input of ``after`` that costs nothing (None: any); beyond, ``penalty`` grows.
    """

    def __init__(self, before: nn.Module, after: nn.Module, description: str, scale: float | None) -> None:
        super().__init__()
        self.before, self.after = before, after
        self.description, self.scale = description, scale
        self.share = 0.0
        self.penalty: Tensor | None = None

    def forward(self, input: Tensor) -> Tensor:
        """What both give, weighed; behind the ramp ``after`` alone."""
        if self.scale is not None and torch.is_grad_enabled():
            self.penalty = nn.functional.relu(input.abs() / self.scale - 1.0).square().mean()
        if self.share >= 1.0:
            result: Tensor = self.after(input)
            return result
        # A copy for the old one: many write their result into what they read (MobileNetV3's hard-swish).
        mixed: Tensor = (1.0 - self.share) * self.before(input.clone()) + self.share * self.after(input)
        return mixed

    def extra_repr(self) -> str:
        """The form and the share."""
        return f"{self.description}, share={self.share:g}"


def blended(
    model: nn.Module, replacements: Mapping[str, str], after: nn.Module, scales: Mapping[str, float]
) -> nn.Module:
    """A copy of ``model`` that turns into ``after``, which has ``replacements`` in it, while it is trained."""
    mixed = copy_model(model)
    for path, text in replacements.items():
        set_module(
            mixed, path, Blend(module_at(mixed, path), copy_model(module_at(after, path)), text, scales.get(path))
        )
    return mixed


def unblended(model: nn.Module) -> nn.Module:
    """The same model, in place, with what each blend has turned into."""
    for path, module in list(model.named_modules()):
        if isinstance(module, Blend):
            set_module(model, path, module.after)
    return model


def blends(model: nn.Module) -> dict[str, Blend]:
    """The blends of a model by path."""
    return {path: module for path, module in model.named_modules() if isinstance(module, Blend)}


def move_blends(mixed: Iterable[Blend], progress: float) -> None:
    """Set the share of each blend for a training of which ``progress`` (0 to 1) is done."""
    for blend in mixed:
        blend.share = min(progress / BLENDED_BY, 1.0)


def blend_penalty(mixed: Iterable[Blend]) -> Tensor | float:
    """The penalties of the latest pass, for inputs beyond what polynomials were fitted to."""
    return sum(blend.penalty for blend in mixed if blend.penalty is not None)


def describe_blends(model: nn.Module) -> dict[str, Any]:
    """What identifies the blends of a model, in JSON types."""
    return {path: [blend.description, blend.scale] for path, blend in blends(model).items()}
