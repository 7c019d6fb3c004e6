"""A few training samples of every stratum, for criteria and quantisers that need data and have to name it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from reconvene.data.batches import Batch
from reconvene.data.dataset import Dataset
from reconvene.errors import DataError

_SAMPLES = 100
"""Of data without classes."""


TRAINED_SAMPLES = 2000
"""Training images at most that channels of a trained network are judged, and its layers repaired, by."""


@dataclass(frozen=True, eq=False)
class Calibration:
    """An iterable of ``(inputs, targets)`` batches that can be walked again and again; ``str()`` says what it holds."""

    batches: tuple[Batch, ...]
    description: str

    def __iter__(self) -> Iterator[Batch]:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)

    def __str__(self) -> str:
        return self.description


def stratified_calibration(dataset: Dataset, most: int, *, seed: int = 0, batch_size: int = 128) -> Calibration:
    """``most`` normalised training images, not augmented, or all of fewer, with every class in its proportion.

    Every class that has images shows at least one, if it takes more than ``most``. Batches as of ``calibration``.
    """
    rows, names = _rows_of_classes(dataset)
    sizes = [len(own) for own in rows]
    counts = _in_proportion(sizes, min(max(most, len(sizes)), sum(sizes)))
    places = [(np.arange(count) + 0.5) / count for count in counts]
    classes = f" of {len(names)} classes, in proportion" if names else ""
    return _chosen(dataset, rows, counts, places, seed, batch_size, classes)


def calibration(dataset: Dataset, n: int | None = None, *, seed: int = 0, batch_size: int = 128) -> Calibration:
    """``n`` normalised training images, not augmented, as many of every class, in turns.

    By default ten a class, or as many as it has, and a hundred of data without classes. Batches are float32
    ``[B, C, H, W]`` and their targets. Where ``n`` is no multiple of the classes, the first of them get one more.
    Classes without training images are left out.

    Raises:
        DataError: fewer samples than classes asked, or a class holds too few images.
    """
    rows, names = _rows_of_classes(dataset)
    count, sizes = len(rows), [len(own) for own in rows]
    if n is None:
        counts = [min(10 if names else _SAMPLES, size) for size in sizes]
    elif n < count:
        raise DataError(
            f"{n} calibration samples cannot show all {count} classes of {dataset.name}. Try: n={10 * count}."
        )
    else:
        counts = [n // count + (c < n % count) for c in range(count)]
    for c, (size, asked) in enumerate(zip(sizes, counts, strict=True)):
        if size < asked:
            of_class = f"class {names[c]!r} of " if names else ""
            raise DataError(
                f"{of_class}{dataset.name} has {size} training images, {asked} asked. "
                f"Try: n={min(sizes) * count}, or no n, which takes up to ten of each class."
            )
    fewest, largest = min(counts), max(counts)
    each = f"{fewest}" if fewest == largest else f"{fewest} {'or' if largest == fewest + 1 else 'to'} {largest}"
    classes = f", {each} of each of {count} classes" if names else ""
    return _chosen(dataset, rows, counts, [np.arange(own) for own in counts], seed, batch_size, classes)


def _rows_of_classes(dataset: Dataset) -> tuple[list[NDArray[np.int64]], list[str]]:
    """Training images of each class that has any, and the names of these classes; none of data without classes."""
    labels = dataset.stratum_of(dataset.train).numpy()
    rows = [np.flatnonzero(labels == c) for c in range(len(dataset.strata))]
    named = [name for name, own in zip(dataset.strata, rows, strict=True) if len(own)]
    return [own for own in rows if len(own)], named if dataset.strata == dataset.classes else []


def _in_proportion(sizes: list[int], total: int) -> list[int]:
    """``total`` shared out by size: at least one each, the rest by largest remainders."""
    exact = np.array(sizes) * total / sum(sizes)
    counts = np.maximum(np.array(sizes) * total // sum(sizes), 1)
    while counts.sum() != total:
        step = 1 if counts.sum() < total else -1
        free = counts < sizes if step > 0 else counts > 1
        counts[np.argmax(np.where(free, step * (exact - counts), -np.inf))] += step
    return [int(count) for count in counts]


def _chosen(
    dataset: Dataset,
    rows: list[NDArray[np.int64]],
    counts: list[int],
    places: Sequence[NDArray[Any]],
    seed: int,
    batch_size: int,
    classes: str,
) -> Calibration:
    """``counts[c]`` images of class c, drawn by ``seed``; all images in the order of their ``places``."""
    rng = np.random.Generator(np.random.PCG64(seed))
    picks = [rng.choice(own, count, replace=False) for own, count in zip(rows, counts, strict=True)]
    order = torch.from_numpy(np.concatenate(picks)[np.argsort(np.concatenate(places), kind="stable")])
    images, targets = dataset.normalise(dataset.train.images[order]), dataset.train.targets[order]
    batches = tuple(zip(torch.split(images, batch_size), torch.split(targets, batch_size), strict=True))
    return Calibration(batches, f"{dataset.name} train: {len(order)} samples{classes}, seed {seed}")
