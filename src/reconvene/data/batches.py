"""Batches whose every bit follows from (seed, epoch, step): a run can stop and go on anywhere, in any parts."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from reconvene.data.dataset import Dataset, Split
from reconvene.tasks import Augmentation

Batch = tuple[Tensor, Tensor]


def train_batches(
    dataset: Dataset,
    *,
    batch_size: int,
    seed: int,
    epoch: int,
    augmentation: Augmentation | None = None,
    start: int = 0,
    shard: tuple[int, int] = (0, 1),
    device: torch.device | str = "cpu",
    channels_last: bool = False,
) -> Iterator[Batch]:
    """Shuffled, augmented, normalised batches of the training split.

    Each is float32 ``[B, C, H, W]`` and its targets, which are moved as their images where they have a height and a
    width. Images are contiguous, or with ``channels_last`` in that memory format: PyTorch then computes the network in
    it, where some gradients are unsafe (``reconvene.training.memory_format``). All randomness of an epoch is drawn at
    once from ``(seed, epoch)``, one draw per image: ``start`` skips steps at no cost, and ``shard=(rank, world)`` gives
    the rank-th part of the same global batch of ``batch_size``. Images left over after the last full batch wait for
    another epoch. ``augmentation`` ``None`` means the dataset's own.
    """
    images, targets = dataset.train.images.to(device), dataset.train.targets.to(device)
    augmentation = dataset.augmentation if augmentation is None else augmentation
    n, (rank, world) = len(dataset.train), shard
    rng = np.random.Generator(np.random.PCG64([seed, epoch]))
    order = torch.from_numpy(rng.permutation(n)).to(device)
    shift = torch.from_numpy(rng.integers(0, 2 * augmentation.pad + 1, size=(2, n))).to(device)
    flip = torch.from_numpy(rng.random(n) < 0.5 if augmentation.flip else np.zeros(n, dtype=bool)).to(device)
    for step in range(start, n // batch_size):
        part = slice(
            step * batch_size + batch_size * rank // world, step * batch_size + batch_size * (rank + 1) // world
        )
        chosen = order[part]
        moves = (augmentation.pad, shift[0, part], shift[1, part], flip[part])
        if dataset.task.targets.spatial:
            pixels, moved = (crop(values[chosen], *moves, extend=True) for values in (images, targets))
        else:
            pixels, moved = crop(images[chosen], *moves), targets[chosen]
        normalised = dataset.normalise(pixels)
        yield normalised if channels_last else normalised.contiguous(), moved


def test_batches(
    dataset: Dataset,
    *,
    split: Split | None = None,
    batch_size: int = 256,
    shard: tuple[int, int] = (0, 1),
    device: torch.device | str = "cpu",
) -> Iterator[Batch]:
    """Every image once, in order, normalised: float32 ``[B, C, H, W]``, targets; of the test split by default."""
    split = dataset.test if split is None else split
    rank, world = shard
    first, last = len(split) * rank // world, len(split) * (rank + 1) // world
    for begin in range(first, last, batch_size):
        stop = min(begin + batch_size, last)
        yield dataset.normalise(split.images[begin:stop].to(device)), split.targets[begin:stop].to(device)


def crop(images: Tensor, pad: int, top: Tensor, left: Tensor, flip: Tensor, *, extend: bool = False) -> Tensor:
    """Cut each of ``[B, (C,) H, W]`` out of its padded self at ``(top[b], left[b])``, mirrored where ``flip[b]``.

    The padding is zero; with ``extend`` it repeats the edge, since a zero in a map is a class. One gather for the whole
    batch; it comes out as rows of pixels, which is channels-last.
    """
    if images.ndim == 3:
        return crop(images[:, None], pad, top, left, flip, extend=extend)[:, 0]
    height, width = images.shape[2:]
    padded = F.pad(images, (pad, pad, pad, pad)) if pad and not extend else images
    along = torch.arange(width, device=images.device).expand(len(images), width)
    columns = torch.where(flip[:, None], along.flip(1), along) + left[:, None]
    rows = torch.arange(height, device=images.device) + top[:, None]
    if extend:
        rows, columns = (rows - pad).clamp_(0, height - 1), (columns - pad).clamp_(0, width - 1)
    each = torch.arange(len(images), device=images.device)[:, None, None]
    return padded.permute(0, 2, 3, 1)[each, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
