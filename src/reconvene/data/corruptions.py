"""Common corruptions of test images at three strengths (after 1903.12261): noise, blur, contrast, JPEG."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from reconvene.data.dataset import Dataset, Split
from reconvene.data.source import import_data_extra
from reconvene.errors import DataError, UnknownNameError

STRENGTHS = (1, 2, 3)
SIGMAS = (10.0, 20.0, 40.0)  # of Gaussian noise, in grey levels of 255
WIDTHS = (0.5, 1.0, 2.0)  # of a Gaussian blur, in pixels of an image 32 high
FACTORS = (0.6, 0.4, 0.2)  # of the distance from the image's mean
QUALITIES = (50, 25, 10)  # of JPEG
_BATCH = 1000


def corrupt(images: Tensor, name: str, strength: int, *, seed: int = 0) -> Tensor:
    """Images uint8 ``[N, C, H, W]`` after the corruption ``name`` at ``strength`` 1, 2 or 3; same shape and type.

    ``seed`` draws the noise: the same seed gives the same pixels.

    Raises:
        UnknownNameError: no such corruption.
        DataError: no such strength, or images that are not uint8 of one or three channels.
        MissingExtraError: JPEG without pillow.
    """
    if name not in CORRUPTIONS:
        raise UnknownNameError("corruption", name, CORRUPTIONS)
    if strength not in STRENGTHS:
        raise DataError(f"strength {strength} of {name}: there are {', '.join(map(str, STRENGTHS))}.")
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] not in (1, 3):
        raise DataError(f"corruptions take uint8 images [N, 1 or 3, H, W], not {images.dtype} {list(images.shape)}.")
    parts = torch.split(images, _BATCH)
    changed = [CORRUPTIONS[name](part, strength - 1, (seed, strength, i)) for i, part in enumerate(parts)]
    return torch.cat(changed) if changed else images.clone()


def corrupted(dataset: Dataset, *, seed: int = 0) -> Iterator[tuple[str, int, Dataset]]:
    """The same data set with every corruption of its test images at every strength: name, strength, data."""
    for name in CORRUPTIONS:
        for strength in STRENGTHS:
            images = corrupt(dataset.test.images, name, strength, seed=seed)
            yield name, strength, replace(dataset, test=Split(images, dataset.test.targets))


def _noise(images: Tensor, level: int, stream: tuple[int, ...]) -> Tensor:
    rng = np.random.Generator(np.random.PCG64(stream))
    drawn = torch.from_numpy(rng.standard_normal(tuple(images.shape), dtype=np.float32))
    return _pixels(images.float() + SIGMAS[level] * drawn)


def _blur(images: Tensor, level: int, stream: tuple[int, ...]) -> Tensor:
    sigma = WIDTHS[level] * images.shape[2] / 32
    reach = min(max(1, round(3 * sigma)), min(images.shape[2:]) - 1)
    offsets = torch.arange(-reach, reach + 1, dtype=torch.float32)
    kernel = torch.exp(-(offsets**2) / (2 * sigma**2))
    kernel /= kernel.sum()
    channels = images.shape[1]
    padded = F.pad(images.float(), (reach, reach, reach, reach), mode="reflect")
    rows = F.conv2d(padded, kernel.view(1, 1, 1, -1).expand(channels, 1, 1, -1), groups=channels)
    return _pixels(F.conv2d(rows, kernel.view(1, 1, -1, 1).expand(channels, 1, -1, 1), groups=channels))


def _contrast(images: Tensor, level: int, stream: tuple[int, ...]) -> Tensor:
    pixels = images.float()
    mean = pixels.mean(dim=(1, 2, 3), keepdim=True)
    return _pixels(mean + FACTORS[level] * (pixels - mean))


def _jpeg(images: Tensor, level: int, stream: tuple[int, ...]) -> Tensor:
    pillow = import_data_extra("PIL.Image", "pillow", "JPEG corruption")
    result = np.empty(tuple(images.shape), dtype=np.uint8)
    for i, image in enumerate(images.permute(0, 2, 3, 1).numpy()):
        buffer = io.BytesIO()
        pillow.fromarray(image if image.shape[2] == 3 else image[:, :, 0]).save(
            buffer, format="JPEG", quality=QUALITIES[level]
        )
        decoded = np.asarray(pillow.open(buffer))
        result[i] = decoded.transpose(2, 0, 1) if decoded.ndim == 3 else decoded[None]
    return torch.from_numpy(result)


def _pixels(values: Tensor) -> Tensor:
    return values.round().clamp(0, 255).to(torch.uint8)


CORRUPTIONS: dict[str, Callable[[Tensor, int, tuple[int, ...]], Tensor]] = {
    "noise": _noise,
    "blur": _blur,
    "contrast": _contrast,
    "jpeg": _jpeg,
}
