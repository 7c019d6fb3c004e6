"""What a reader of one kind of data finds, before anything is decoded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from reconvene.errors import MissingExtraError

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True, eq=False)
class Rows:
    """One split: ``labels[i]`` int64, ``open(i)`` gives the picture of row i, ``locate(i)`` its name in errors.

    Data without labels has ``target(i)``, which gives the picture that is the target of row i, or ``values``, float32
    ``[N]`` or ``[N, D]``, and all labels are 0.
    """

    labels: NDArray[np.int64]
    open: Callable[[int], Image]
    locate: Callable[[int], str]
    target: Callable[[int], Image] | None = None
    values: NDArray[np.float32] | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: NDArray[np.int64]) -> Rows:
        """The same split with only these rows, in this order."""
        target = self.target
        return Rows(
            self.labels[rows],
            lambda i: self.open(int(rows[i])),
            lambda i: self.locate(int(rows[i])),
            None if target is None else lambda i: target(int(rows[i])),
            None if self.values is None else self.values[rows],
        )


@dataclass(frozen=True, eq=False)
class DataSource:
    """A dataset as found: ``test`` is ``None`` where it comes without a split to test on.

    ``shape`` ``(C, H, W)`` is what pictures become if nobody asks for a shape; ``None`` leaves them as they are.
    ``numbered``: targets are maps that number objects. ``sound``: pictures are log-mels, which must not be mirrored.
    """

    name: str
    classes: tuple[str, ...]
    train: Rows
    test: Rows | None
    shape: tuple[int, int, int] | None = None
    numbered: bool = False
    sound: bool = False
    note: str = ""
    """What becomes of a split for validation that the data come with; empty without one."""


def validation_note(*, tested: bool) -> str:
    """What becomes of a split for validation, beside one to test on or alone."""
    return "its validation split is not used" if tested else "tested on its validation split"


def import_data_extra(module: str, package: str, purpose: str) -> Any:
    """Import an optional module of the ``data`` extra.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise MissingExtraError(package, "data", purpose) from error


def stratified(labels: NDArray[np.int64], count: int, *, seed: int) -> NDArray[np.int64]:
    """``count`` row numbers, ascending, that hold every class in the proportion of the whole, to within one image.

    Every image gets a place in [0, 1) within its shuffled class; the ``count`` lowest places are taken.
    """
    rng = np.random.Generator(np.random.PCG64(seed))
    positions = np.empty(len(labels), dtype=np.float64)
    for c in np.unique(labels):
        rows = np.flatnonzero(labels == c)
        positions[rows] = (rng.permutation(len(rows)) + rng.random()) / len(rows)
    return np.sort(np.argsort(positions, kind="stable")[:count])
