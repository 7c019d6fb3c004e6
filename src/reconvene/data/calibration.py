"""A few training samples of every stratum, for criteria and quantisers that need data and have to name it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

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


def balanced_calibration(dataset: Dataset, most: int, *, seed: int = 0, batch_size: int = 128) -> Calibration:
    """As many training images of every class, ``most`` in all, or fewer where a class has no more: ``calibration``."""
    count, strata = len(dataset.strata), dataset.stratum_of(dataset.train)
    fewest = int(strata.bincount(minlength=count).min())
    return calibration(dataset, min(max(most, count), max(fewest, 1) * count), seed=seed, batch_size=batch_size)


def calibration(dataset: Dataset, n: int | None = None, *, seed: int = 0, batch_size: int = 128) -> Calibration:
    """``n`` normalised training images, not augmented, as many of every class, in turns.

    By default ten a class, and a hundred of data without classes. Batches are float32 ``[B, C, H, W]`` and their
    targets. Where ``n`` is no multiple of the classes, the first of them get one more.

    Raises:
        DataError: fewer samples than classes asked, or a class holds too few images.
    """
    count = len(dataset.strata)
    if n is None:
        n = 10 * count if dataset.strata == dataset.classes else min(_SAMPLES, len(dataset.train))
    if n < count:
        raise DataError(
            f"{n} calibration samples cannot show all {count} classes of {dataset.name}. Try: n={10 * count}."
        )
    rng = np.random.Generator(np.random.PCG64(seed))
    labels = dataset.stratum_of(dataset.train).numpy()
    class_counts = [n // count + (c < n % count) for c in range(count)]
    picks, turns = [], []
    for c, size in enumerate(class_counts):
        rows = np.flatnonzero(labels == c)
        if len(rows) < size:
            of_class = f"class {dataset.strata[c]!r} of " if dataset.strata == dataset.classes else ""
            raise DataError(
                f"{of_class}{dataset.name} has {len(rows)} training images, {size} asked. Try: a smaller n."
            )
        picks.append(rng.choice(rows, size, replace=False))
        turns.append(np.arange(size))
    order = torch.from_numpy(np.concatenate(picks)[np.argsort(np.concatenate(turns), kind="stable")])
    images, targets = dataset.normalise(dataset.train.images[order]), dataset.train.targets[order]
    batches = tuple(zip(torch.split(images, batch_size), torch.split(targets, batch_size), strict=True))
    if dataset.strata != dataset.classes:
        return Calibration(batches, f"{dataset.name} train: {n} samples, seed {seed}")
    each = f"{n // count}" if n % count == 0 else f"{n // count} or {n // count + 1}"
    return Calibration(batches, f"{dataset.name} train: {n} samples, {each} of each of {count} classes, seed {seed}")
