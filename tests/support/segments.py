"""Images of bright discs, some of which touch, with maps that number them."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from reconvene.data import Dataset, Split
from reconvene.data.dataset import statistics
from reconvene.tasks import task_named

SIZE = 32


def disc_map(rng: np.random.Generator, size: int = SIZE, count: int = 4) -> NDArray[np.int32]:
    """Discs of radius 4 to 6, numbered with gaps; two of them side by side."""
    rows, columns = np.indices((size, size))
    numbers = np.zeros((size, size), dtype=np.int32)
    first = rng.integers(8, size - 8, 2)
    centres = [first, first + np.array([0, 9]), *rng.integers(0, size, (count - 2, 2))]
    for number, (row, column) in zip(rng.permutation(np.arange(1, 3 * count, 2)), centres, strict=False):
        numbers[(rows - row) ** 2 + (columns - column) ** 2 < rng.integers(16, 30)] = number
    return numbers


def discs(count: int, task: str, *, classes: tuple[str, ...] = ("background", "object"), seed: int = 0) -> Dataset:
    """Discs in noise, brighter in the middle; a fifth of them to test on."""
    rng = np.random.default_rng(seed)
    maps = np.stack([disc_map(rng) for _ in range(count)])
    images = rng.integers(0, 80, (count, 1, SIZE, SIZE)).astype(np.uint8) + (120 * (maps > 0)).astype(np.uint8)[:, None]
    targets = maps if task_named(task).numbered else (maps > 0).astype(np.int32)
    pixels, numbers = torch.from_numpy(images), torch.from_numpy(targets)
    cut = count // 5
    mean, std = statistics(pixels)
    parts = Split(pixels[cut:], numbers[cut:]), Split(pixels[:cut], numbers[:cut])
    return Dataset("discs", *parts, classes, mean, std, task=task_named(task))
