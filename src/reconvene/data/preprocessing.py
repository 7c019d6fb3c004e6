"""What happens to a picture before the model sees it, and what its answers are called: what a device must know too."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from reconvene.tasks import DEFAULT, task_named
from reconvene.utils.schema import Name, Size, Text, opened

ChannelValues = Annotated[tuple[Annotated[float, Field(ge=-1e6, le=1e6)], ...], Field(max_length=1024)]


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


def _of_its_channels(preprocessing: Preprocessing) -> Preprocessing:
    channels, mean, std = preprocessing.shape[0], preprocessing.mean, preprocessing.std
    if not len(mean) == len(std) == channels or min(std) <= 0:
        raise ValueError(f"{channels} channels need as many means and positive deviations, not {mean} and {std}")
    return preprocessing


CheckedPreprocessing = Annotated[Preprocessing, AfterValidator(_of_its_channels)]
"""One in a file."""
