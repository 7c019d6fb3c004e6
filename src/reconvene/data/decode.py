"""From files of images to tensors, and their targets with them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from reconvene.data.dataset import Split
from reconvene.data.source import Rows, import_data_extra
from reconvene.errors import DataError
from reconvene.tasks import Targets
from reconvene.utils.progress import track
from reconvene.utils.resources import require_memory

if TYPE_CHECKING:
    from PIL.Image import Image

_MODES = {"1": 1, "L": 1, "LA": 1, "P": 3, "RGB": 3, "RGBA": 3, "CMYK": 3, "YCbCr": 3}
MAP_MODES = ("1", "L", "P", "I", "I;16", "I;16B", "I;16L")
"""Modes of pictures whose pixels are one integer: of ``P`` the number in the palette."""
_COUNTED = 2**16
"""Numbers of maps below which counting finds the values sooner than sorting."""
_NAMED = 10
"""Broken images that an error names."""


def own_shape(rows: Rows) -> tuple[int, int, int]:
    """``(C, H, W)`` of the first image. Raises DataError."""
    picture = _image(rows, 0)
    return _MODES[picture.mode], picture.height, picture.width


@dataclass(frozen=True, eq=False)
class Decoded:
    """A split, and every value of its maps as they are on disk: scaling may lose some."""

    split: Split
    values: frozenset[int] = frozenset()


def decode_split(rows: Rows, targets: Targets, shape: tuple[int, int, int], name: str, *, fit: bool) -> Decoded:
    """All images of a split as ``shape`` ``(C, H, W)``, with their targets.

    ``fit``: pictures of other sizes are scaled until they cover the frame (bilinear, maps by the nearest pixel) and
    their middle is cut out; else they are an error. A picture that is a target is as large as its image, or as large as
    the frame that its image is scaled to.

    Raises DataError, ResourceError.
    """
    channels, height, width = shape
    _require_memory(len(rows), shape, targets)
    pixels = np.empty((len(rows), height, width, channels), dtype=np.uint8)
    maps = np.empty((len(rows), height, width) if targets is Targets.MAPS else 0, dtype=np.int32)
    pictures = np.empty(pixels.shape if targets is Targets.PICTURES else 0, dtype=np.uint8)
    broken: list[_BrokenImage] = []
    values: set[int] = set()
    for i in track(range(len(rows)), f"decoding {name}", total=len(rows)):
        try:
            picture = _image(rows, i)
        except _BrokenImage as error:  # all of them are named at once
            broken.append(error)
            continue
        size = (picture.height, picture.width)
        if size != (height, width) and not fit:
            raise DataError(
                f"images differ in size: the first is {height}x{width}, "
                f"{rows.locate(i)} is {picture.height}x{picture.width}. "
                f"Try: input_shape=({channels}, {height}, {width})."
            )
        pixels[i] = _pixels(picture, shape)
        if targets is Targets.MAPS:
            numbers = _map(rows, i, size)
            values |= _values_in(numbers)
            maps[i] = np.asarray(_covering(numbers, height, width, nearest=True))
        elif targets is Targets.PICTURES:
            pictures[i] = _pixels(_picture(rows, i, size, shape, fit=fit), shape)
    if broken:
        raise DataError(_all_broken(broken))
    images = _channels_first(pixels)
    if targets is Targets.PICTURES:
        return Decoded(Split(images, _channels_first(pictures)))
    chosen = {Targets.MAPS: maps, Targets.VALUES: rows.values, Targets.LABELS: rows.labels}[targets]
    assert chosen is not None, "the reader of such data fills it in"
    return Decoded(Split(images, torch.from_numpy(chosen)), frozenset(values))


def map_values(rows: Rows, name: str) -> frozenset[int]:
    """Every value of the maps of rows whose images are not decoded. Raises DataError."""
    values: set[int] = set()
    for i in track(range(len(rows)), f"reading maps of {name}", total=len(rows)):
        values |= _values_in(_map(rows, i, None))
    return frozenset(values)


def _require_memory(count: int, shape: tuple[int, int, int], targets: Targets) -> None:
    channels, height, width = shape
    each = {Targets.MAPS: channels + 4, Targets.PICTURES: 2 * channels}.get(targets, channels)
    memory = count * height * width * each
    require_memory(memory, f"{count:,} images of {channels}x{height}x{width}", "Use fewer (--limit) or smaller ones")


def _pixels(picture: Image, shape: tuple[int, int, int]) -> NDArray[np.uint8]:
    channels, height, width = shape
    picture = picture.convert("L" if channels == 1 else "RGB")
    return np.asarray(_covering(picture, height, width, nearest=False)).reshape(height, width, channels)


def _channels_first(pixels: NDArray[np.uint8]) -> Tensor:
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()


def _image(rows: Rows, i: int) -> Image:
    picture = _opened(rows, i, target=False)
    _check_mode(picture, rows.locate(i))
    return picture


def _check_mode(picture: Image, place: str) -> None:
    if picture.mode not in _MODES:
        raise DataError(f"{place} is an image of mode {picture.mode}; known modes: {', '.join(_MODES)}.")


def _picture(rows: Rows, i: int, size: tuple[int, int], shape: tuple[int, int, int], *, fit: bool) -> Image:
    """The target of an image of this size, which shows the same view and loses no pixels that the image keeps."""
    picture = _target(rows, i)
    _check_mode(picture, f"the target of {rows.locate(i)}")
    own, (channels, height, width) = (picture.height, picture.width), shape
    same_view = own[0] * size[1] == own[1] * size[0]
    if own == size or (fit and same_view and own == (height, width)):
        return picture
    advice = (
        f"Try: input_shape=({channels}, {own[0]}, {own[1]}) (--input {channels}x{own[0]}x{own[1]}), which scales the "
        "images to the size of their targets: a network's outputs are as large as its inputs"
        if same_view
        else "They show different views. Cut both to the same part"
    )
    raise DataError(
        f"the target of {rows.locate(i)} is {own[0]}x{own[1]}, its image {size[0]}x{size[1]}, and images were to be "
        f"{height}x{width}. {advice}."
    )


def _map(rows: Rows, i: int, size: tuple[int, int] | None) -> Image:
    """A map of integers in mode I, as large as its image where that size is given."""
    picture = _target(rows, i)
    if picture.mode not in MAP_MODES:
        raise DataError(
            f"the map of {rows.locate(i)} is a picture of mode {picture.mode}, not one integer a pixel "
            f"({', '.join(MAP_MODES)}). Save it as PNG in grey, of 8 or 16 bits, or with a palette."
        )
    if size is not None and (picture.height, picture.width) != size:
        raise DataError(
            f"the map of {rows.locate(i)} is {picture.height}x{picture.width}, its image {size[0]}x{size[1]}."
        )
    image = import_data_extra("PIL.Image", "pillow", "decoding images")
    numbers: Image = image.fromarray(np.asarray(picture).astype(np.int32))
    return numbers


def _values_in(numbers: Image) -> set[int]:
    pixels = np.asarray(numbers)
    few = pixels.min() >= 0 and pixels.max() < _COUNTED
    return set((np.flatnonzero(np.bincount(pixels.ravel())) if few else np.unique(pixels)).tolist())


def _target(rows: Rows, i: int) -> Image:
    return _opened(rows, i, target=True)


def _opened(rows: Rows, i: int, *, target: bool) -> Image:
    place = f"{rows.locate(i)}, its target" if target else rows.locate(i)
    try:
        opener = rows.target if target else rows.open
        assert opener is not None, "the reader of such data fills it in"
        picture = opener(i)
        picture.load()
    except Exception as error:  # files of images make decoders raise whatever their damage leads to
        raise _BrokenImage(f"{_trouble(error)} at {place}: {error}") from error
    return picture


class _BrokenImage(DataError):
    """An image that cannot be decoded."""


def _all_broken(broken: list[_BrokenImage]) -> str:
    if len(broken) == 1:
        return f"{broken[0]}. Remove it, or save it again."
    named = "; ".join(map(str, broken[:_NAMED])) + (f"; and {len(broken) - _NAMED} more" * (len(broken) > _NAMED))
    return f"{len(broken)} images cannot be decoded: {named}. Remove them, or save them again."


def _trouble(error: Exception) -> str:
    too_large = import_data_extra("PIL.Image", "pillow", "decoding images").DecompressionBombError
    return "image too large to be decoded safely" if isinstance(error, too_large) else "broken image"


def _covering(picture: Image, height: int, width: int, *, nearest: bool) -> Image:
    """Scale until both sides cover the frame, then cut out the middle."""
    if (picture.height, picture.width) == (height, width):
        return picture
    methods = import_data_extra("PIL.Image", "pillow", "decoding images").Resampling
    scale = max(height / picture.height, width / picture.width)
    size = max(width, round(picture.width * scale)), max(height, round(picture.height * scale))
    left, top = (size[0] - width) // 2, (size[1] - height) // 2
    resized = picture.resize(size, methods.NEAREST if nearest else methods.BILINEAR)
    return resized.crop((left, top, left + width, top + height))
