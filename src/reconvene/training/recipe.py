"""The recipe of training in a file of settings: fields of ``TrainConfig`` by name."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, fields
from typing import Any

from reconvene.training.config import TrainConfig
from reconvene.utils.invalid_values import Place
from reconvene.utils.settings import Positive, Settings, name_of

_NAMES = {entry.name for entry in fields(TrainConfig)} - {"seed", "checkpoint_seconds"}
"""What a file may say: the seed is the file's own, and how often a checkpoint is written decides no result."""


@dataclass(frozen=True)
class _Training(TrainConfig):
    epochs: Positive = 1


def read_recipe(
    settings: Settings,
    place: Place,
    *,
    epochs: bool = False,
    lists: bool = False,
    besides: Collection[str] = (),
) -> dict[str, Any]:
    """The values of a table, as written, each checked by its type and by the rules of ``TrainConfig``.

    ``epochs``: whether the table says those as well. ``lists``: whether a list may stand for each of its values.
    ``besides``: further names in the table, read elsewhere.
    """
    settings.require_known(place, {*_NAMES, *besides, *(["epochs"] if epochs else [])})
    recipe = {name: value for name, value in settings.table(place).items() if name not in besides}
    if epochs and "epochs" not in recipe:
        settings.fail(place, f"{name_of(place)} does not say its epochs")
    for name, value in recipe.items():
        for choice in value if lists and isinstance(value, list | tuple) else [value]:
            if broken := settings.check(_Training, {name: choice}, place).broken_rules():
                settings.fail((*place, name), f"{name} {choice!r} cannot be trained with: {'; '.join(broken)}")
    return recipe
