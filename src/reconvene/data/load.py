"""From a name, a folder or a hub id to a dataset in memory."""

from __future__ import annotations

import os
import re
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from reconvene.data.dataset import Dataset, Split, statistics
from reconvene.data.digits import COUNT, read_digits
from reconvene.data.folder import read_folder
from reconvene.data.progress import track
from reconvene.data.source import Rows, Source, needs, stratified
from reconvene.data.table import count_parquet, read_hub, read_parquet
from reconvene.errors import DataError
from reconvene.tasks import DEFAULT
from reconvene.utils.escaping import printable
from reconvene.utils.resources import require_memory

if TYPE_CHECKING:
    from PIL.Image import Image

HELD_OUT = 0.2
MODES = {"1": 1, "L": 1, "LA": 1, "P": 3, "RGB": 3, "RGBA": 3, "CMYK": 3, "YCbCr": 3}


def load(
    spec: str | os.PathLike[str],
    *,
    input_shape: tuple[int, ...] | None = None,
    split_seed: int = 0,
    limit: int | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
    progress: bool = False,
) -> Dataset:
    """Load labelled images, decoded once into uint8 tensors ``[N, C, H, W]``.

    ``spec`` is ``digits`` (scikit-learn's, no download), a folder of parquet files, a folder of images (one sub-folder
    a class), or an id on the dataset hub. ``input_shape`` ``(C, H, W)`` is what the model takes: pictures are scaled to
    cover H x W (bilinear), their middle cut out, and turned to grey (C = 1) or RGB (C = 3). ``None`` keeps their own
    size; digits then become 3x32x32. Without a test split, a fifth of every class, drawn by ``split_seed``, is held
    out. ``limit`` keeps at most so many images of each split, every class in proportion.

    Raises:
        DataError: nothing there, no images, no labels, a broken picture (named), or sizes that differ without an
            ``input_shape``.
        ResourceError: the images take more memory than the machine has.
        MissingExtraError: the ``data`` extra is absent.
    """
    _check_limit(limit)
    if input_shape is not None and (len(input_shape) != 3 or input_shape[0] not in (1, 3) or min(input_shape) < 1):
        requested_shape = "x".join(map(str, input_shape))
        raise DataError(f"image data can become 1xHxW (grey) or 3xHxW (RGB), not {requested_shape}.")
    source = _find(spec, image_column=image_column, label_column=label_column)
    _check_classes(source)
    note = ""
    train, test = source.train, source.test
    if test is None:
        test_rows = stratified(train.labels, round(HELD_OUT * len(train)), seed=split_seed)
        train_rows = np.setdiff1d(np.arange(len(train)), test_rows)
        train, test = train.take(train_rows), train.take(test_rows)
        note = f"test held out with split seed {split_seed}"
    train, test = (_limited(rows, limit, split_seed) for rows in (train, test))
    for split, rows in (("training", train), ("test", test)):
        if not len(rows):
            raise DataError(f"{source.name} has no {split} images.")
    target_shape = source.shape if input_shape is None else (input_shape[0], input_shape[1], input_shape[2])
    shape = _own_shape(train) if target_shape is None else target_shape
    fit = target_shape is not None
    splits = [_decode(rows, shape, source.name, fit=fit, progress=progress) for rows in (train, test)]
    mean, std = statistics(splits[0].images)
    return Dataset(
        source.name, splits[0], splits[1], source.classes, mean, std, DEFAULT.augmentation(source.classes, shape), note
    )


def count(spec: str | os.PathLike[str], *, limit: int | None = None) -> int | None:
    """Training images that ``load`` would give, none of them read; None for an id on the hub, which takes a download.

    Raises DataError, MissingExtraError.
    """
    _check_limit(limit)
    path = Path(spec).expanduser()
    if spec == "digits":
        sizes = {"train": COUNT}  # known without importing scikit-learn, which takes longer than some prunings
    elif _is_table(path):
        sizes = count_parquet(path.resolve())
    elif not path.exists() and _is_hub_id(os.fspath(spec)):
        return None
    else:
        source = _find(spec, image_column=None, label_column=None)
        sizes = {"train": len(source.train)} | ({} if source.test is None else {"test": len(source.test)})
    train = sizes["train"] - (round(HELD_OUT * sizes["train"]) if len(sizes) == 1 else 0)
    return train if limit is None else min(train, limit)


def _check_limit(limit: int | None) -> None:
    if limit is not None and limit < 1:
        raise DataError(f"limit must be at least 1, not {limit}.")


def _is_table(path: Path) -> bool:
    return (path.is_file() and path.suffix == ".parquet") or (path.is_dir() and any(path.rglob("*.parquet")))


def _is_hub_id(text: str) -> bool:
    return re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", text) is not None


def _find(spec: str | os.PathLike[str], *, image_column: str | None, label_column: str | None) -> Source:
    if not isinstance(spec, str | os.PathLike):
        raise DataError(f"data {spec!r} is no 'digits', no path and no hub id, but of type {type(spec).__name__}.")
    text = os.fspath(spec)
    if text == "digits":
        return read_digits()
    path = Path(text).expanduser()
    if _is_table(path):
        return read_parquet(path.resolve(), image_column=image_column, label_column=label_column)
    if path.is_dir():
        return read_folder(path.resolve())
    if path.exists():
        raise DataError(f"{path} is a file, but not a parquet file. Pass a folder of images, or parquet.")
    if isinstance(spec, str) and _is_hub_id(spec):
        return read_hub(spec, image_column=image_column, label_column=label_column)
    raise DataError(
        f"no data at {path.absolute()}: it does not exist. Pass 'digits', a folder, or a hub id like 'owner/name'."
    )


def _limited(rows: Rows, limit: int | None, seed: int) -> Rows:
    return rows if limit is None or limit >= len(rows) else rows.take(stratified(rows.labels, limit, seed=seed))


def _own_shape(rows: Rows) -> tuple[int, int, int]:
    picture = _open(rows, 0)
    return MODES[picture.mode], picture.height, picture.width


def _open(rows: Rows, i: int) -> Image:
    try:
        picture = rows.open(i)
        picture.load()
    except Exception as error:  # files of images make decoders raise whatever their damage leads to
        raise DataError(f"{_trouble(error)} at {rows.locate(i)}: {error}") from error
    if picture.mode not in MODES:
        raise DataError(f"{rows.locate(i)} is an image of mode {picture.mode}; known modes: {', '.join(MODES)}.")
    return picture


def _trouble(error: Exception) -> str:
    too_large = needs("PIL.Image", "pillow", "decoding images").DecompressionBombError
    return "image too large to be decoded safely" if isinstance(error, too_large) else "broken image"


def _check_classes(source: Source) -> None:
    """Raise DataError for names that cannot be written, or not be told apart, in logs, labels and reports."""
    for name in source.classes:
        if len(name.splitlines()) != 1 or not name.strip() or printable(name) != name:
            raise DataError(
                f"{source.name} has a class called {name!r}: a name is one line of text in UTF-8, without "
                "control characters. Rename it."
            )
    if again := [name for name, number in Counter(source.classes).items() if number > 1]:
        raise DataError(f"{source.name} has two classes called {again[0]!r}. Rename one.")


def _decode(rows: Rows, shape: tuple[int, int, int], name: str, *, fit: bool, progress: bool) -> Split:
    """``fit``: pictures of other sizes are scaled and cut; else they are an error."""
    channels, height, width = shape
    memory = len(rows) * height * width * channels
    require_memory(
        memory, f"{len(rows):,} images of {channels}x{height}x{width}", "Use fewer (--limit) or smaller ones"
    )
    pixels = np.empty((len(rows), height, width, channels), dtype=np.uint8)
    for i in track(range(len(rows)), f"decoding {name}", total=len(rows), enabled=progress):
        picture = _open(rows, i).convert("L" if channels == 1 else "RGB")
        if (picture.height, picture.width) != (height, width):
            if not fit:
                raise DataError(
                    f"images differ in size: the first is {height}x{width}, "
                    f"{rows.locate(i)} is {picture.height}x{picture.width}. "
                    f"Try: input_shape=({channels}, {height}, {width})."
                )
            picture = _cover(picture, height, width)
        pixels[i] = np.asarray(picture).reshape(height, width, channels)
    return Split(torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous(), torch.from_numpy(rows.labels))


def _cover(picture: Image, height: int, width: int) -> Image:
    """Scale until both sides cover the frame, then cut out the middle."""
    resampling = needs("PIL.Image", "pillow", "decoding images").Resampling.BILINEAR
    scale = max(height / picture.height, width / picture.width)
    size = max(width, round(picture.width * scale)), max(height, round(picture.height * scale))
    left, top = (size[0] - width) // 2, (size[1] - height) // 2
    return picture.resize(size, resampling).crop((left, top, left + width, top + height))
