"""What happens to a picture before the model sees it, and what its answers are called: what a device must know too."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Self

from pydantic import AfterValidator, Field

from reconvene.errors import DataError
from reconvene.tasks import DEFAULT, task_named
from reconvene.utils.schema import Name, Size, Text, opened

ChannelValues = Annotated[tuple[Annotated[float, Field(ge=-1e6, le=1e6)], ...], Field(max_length=1024)]


@opened
@dataclass(frozen=True)
class Normalisation:
    """Mean and standard deviation of pixels in [0, 1], by channel: images become ``(x - 255 mean) / (255 std)``."""

    mean: ChannelValues
    std: ChannelValues

    @classmethod
    def of(cls, mean: Sequence[float], std: Sequence[float], channels: int) -> Self:
        """One number for each channel, or one for all. Raises DataError."""
        return cls(per_channel("mean", mean, channels), per_channel("std", std, channels))


@opened
@dataclass(frozen=True)
class Preprocessing:
    """The way from a picture to the model's input, and from an output to a word.

    A picture is scaled to cover ``shape`` (bilinear), center-cropped, and turned to grey (C = 1) or RGB (C = 3);
    then ``(x - 255 mean) / (255 std)`` per channel. ``task`` says what outputs mean: output ``i`` of a classifier is
    the score of ``classes[i]``.
    """

    shape: tuple[Size, Size, Size]
    mean: ChannelValues
    std: ChannelValues
    classes: Annotated[tuple[Text, ...], Field(max_length=10_000_000)]
    task: Name = DEFAULT.name

    def __str__(self) -> str:
        shape = "x".join(map(str, self.shape))
        mean, std = (", ".join(f"{value:.4g}" for value in values) for values in (self.mean, self.std))
        return f"images {shape}, (x / 255 - mean) / std with mean {mean} and std {std}"

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        values = {name: list(value) for name, value in asdict(self).items() if name != "task"}
        return {**values, **task_named(self.task).identity()}


def per_channel(name: str, given: Sequence[float], channels: int) -> tuple[float, ...]:
    """A number for each channel of what was given as ``mean`` or ``std``. Raises DataError."""
    if isinstance(given, int | float | str):
        raise DataError(f"{name}={given!r} is not a list of numbers, one a channel or one for all, such as [0.5].")
    values = tuple(map(float, given)) * (channels if len(given) == 1 else 1)
    if len(values) != channels or not all(map(math.isfinite, values)) or (name == "std" and min(values) <= 0):
        least = ", above 0" if name == "std" else ""
        raise DataError(
            f"{name} is one number for each of {channels} channels, or one for all{least}; not {list(given)}. "
            "Pixels count from 0 to 1: try mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225] for ImageNet's."
        )
    return values


def _of_its_channels(preprocessing: Preprocessing) -> Preprocessing:
    _require_channels(preprocessing, preprocessing.shape[0])
    return preprocessing


def _of_as_many(normalisation: Normalisation) -> Normalisation:
    _require_channels(normalisation, len(normalisation.mean))
    return normalisation


def _require_channels(values: Preprocessing | Normalisation, channels: int) -> None:
    """Raise ValueError unless there is a mean and a positive deviation for each channel."""
    mean, std = values.mean, values.std
    if not channels or not len(mean) == len(std) == channels or min(std) <= 0:
        raise ValueError(f"{channels} channels need as many means and positive deviations, not {mean} and {std}")


CheckedPreprocessing = Annotated[Preprocessing, AfterValidator(_of_its_channels)]
"""One in a file."""
CheckedNormalisation = Annotated[Normalisation, AfterValidator(_of_as_many)]
