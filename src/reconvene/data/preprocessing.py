"""What happens to a picture before the model sees it, and what its answers are called: what a device must know too."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from reconvene.errors import DataError
from reconvene.tasks import DEFAULT, task_named


@dataclass(frozen=True)
class Preprocessing:
    """The way from a picture to the model's input, and from an output to a word.

    A picture is scaled to cover ``shape`` (bilinear), its middle cut out, and turned to grey (C = 1) or RGB (C = 3);
    then ``(x - 255 mean) / (255 std)`` per channel. ``task`` says what outputs mean: output ``i`` of a classifier is
    the score of ``classes[i]``.
    """

    shape: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    classes: tuple[str, ...]
    task: str = DEFAULT.name

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        values = {name: list(value) for name, value in asdict(self).items() if name != "task"}
        return {**values, **task_named(self.task).identity()}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Preprocessing:
        """Undo ``to_dict``. Raises DataError on anything that does not fit."""
        try:
            c, h, w = (int(size) for size in data["shape"])
            mean, std = (tuple(float(value) for value in data[name]) for name in ("mean", "std"))
            classes = tuple(str(name) for name in data["classes"])
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"not a way to prepare pictures: {data!r} ({error})") from error
        if not len(mean) == len(std) == c or min(std) <= 0:
            raise DataError(f"{c} channels need as many means and positive deviations, not {mean} and {std}")
        return cls((c, h, w), mean, std, classes, str(data.get("task", DEFAULT.name)))
