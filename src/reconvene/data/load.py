"""From a name, a folder or a hub id to a dataset in memory."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from reconvene.data.dataset import Dataset, SplitName, statistics
from reconvene.data.decode import decode_split, map_values, own_shape
from reconvene.data.digits import COUNT, read_digits
from reconvene.data.folder import read_folder
from reconvene.data.maps import OBJECTS, coded_maps
from reconvene.data.pairs import pairs_in_folder, pairs_in_tables
from reconvene.data.preprocessing import per_channel
from reconvene.data.source import DataSource, Rows, stratified
from reconvene.data.table import TableReader, count_parquet, read_hub, read_parquet, read_tables
from reconvene.errors import DataError
from reconvene.tasks import DEFAULT, Targets, Task, task_named
from reconvene.utils.escaping import printable

HELD_OUT = 0.2


def load_data(
    spec: str | os.PathLike[str],
    *,
    task: Task | str = DEFAULT,
    input_shape: tuple[int, ...] | None = None,
    split_seed: int = 0,
    limit: int | None = None,
    validation: float = 0.0,
    image_column: str | None = None,
    label_column: str | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> Dataset:
    """Load images with targets for a task, decoded once into tensors; images are uint8 ``[N, C, H, W]``.

    ``spec`` is ``digits`` (scikit-learn's, no download), a folder of parquet files, a folder of images (one sub-folder
    a class; or ``images`` beside ``masks``, ``instances`` or ``targets``), or an id on the dataset hub. ``task``, a
    name in ``reconvene.tasks.TASKS`` or a task itself, says what targets are. Maps called ``instances`` number objects:
    ``segmentation`` of them becomes the task ``instances``. In other maps every value is a class: of all maps of the
    data, whatever ``limit`` and ``input_shape`` leave of them.

    A column ``audio`` of a parquet file, where there are no images, holds wav files: they become log-mel pictures,
    grey, 64 bands by 64 frames (``reconvene.data.audio``).

    ``input_shape`` ``(C, H, W)`` is what the model takes: pictures are scaled to cover H x W (bilinear), their middle
    cut out, and turned to grey (C = 1) or RGB (C = 3). ``None`` keeps their own size; digits then become 3x32x32.
    Without a test split, a fifth of every class, drawn by ``split_seed``, is held out. ``limit`` keeps at most so many
    images of each split, every class in proportion. ``validation``: share of the training images, of every class, that
    is held out (drawn by ``split_seed``): curves and floors go by it, and the test images judge the result alone.

    A network reads ``(x / 255 - mean) / std`` of each channel. ``mean`` and ``std`` are by default those of the
    training images; give those that a network was trained with, one number for each channel or one for all:
    ``mean=[0]`` and ``std=[1]`` are pixels from 0 to 1. ``image_column`` and ``label_column`` are the columns of a
    table, where they do not have usual names. Data with a split for validation and one to test on are tested on the
    latter; with one for validation alone, on that.

    Raises:
        DataError: nothing there, no images, no labels, a broken picture (named), or sizes that differ without an
            ``input_shape``.
        ResourceError: the images take more memory than the machine has.
        MissingExtraError: the ``data`` extra is absent.
    """
    _check_limit(limit)
    if not 0 <= validation < 1:
        raise DataError(f"validation must be a share of the training images, from 0 to below 1, not {validation}.")
    if input_shape is not None and (len(input_shape) != 3 or input_shape[0] not in (1, 3) or min(input_shape) < 1):
        requested_shape = "x".join(map(str, input_shape))
        raise DataError(f"image data can become 1xHxW (grey) or 3xHxW (RGB), not {requested_shape}.")
    task = task_named(task) if isinstance(task, str) else task
    source = _find(spec, task.targets, image_column=image_column, label_column=label_column)
    _check_classes(source)
    if source.numbered and task.instances is not None:
        task = task_named(task.instances)
    parts, left_out, note = _split(source, split_seed, limit=limit, validation=validation)
    target_shape = source.shape if input_shape is None else (input_shape[0], input_shape[1], input_shape[2])
    shape = own_shape(parts["train"]) if target_shape is None else target_shape
    fit = target_shape is not None
    decoded = [decode_split(rows, task.targets, shape, source.name, fit=fit) for rows in parts.values()]
    classes, splits = source.classes, [part.split for part in decoded]
    if task.targets is Targets.MAPS and task.numbered:
        classes = OBJECTS
    elif task.targets is Targets.MAPS:
        elsewhere = [map_values(rows, source.name) for rows in left_out]
        values = frozenset[int]().union(*elsewhere, *(part.values for part in decoded))
        classes, splits = coded_maps(splits, values, source.name)
    measured = statistics(splits[0].images)
    shift, scale = (
        own if given is None else per_channel(name, given, len(own))
        for name, given, own in zip(("mean", "std"), (mean, std), measured, strict=True)
    )
    augmentation = task.augmentation(classes, shape)
    augmentation = replace(augmentation, flip=False) if source.sound else augmentation
    held = splits[2] if validation else None
    return Dataset(
        name=source.name,
        train=splits[0],
        test=splits[1],
        classes=classes,
        mean=shift,
        std=scale,
        augmentation=augmentation,
        note=note,
        task=task,
        validation=held,
    )


def _split(
    source: DataSource, seed: int, *, limit: int | None, validation: float
) -> tuple[dict[SplitName, Rows], list[Rows], str]:
    """The rows of each split, those that ``limit`` left out, and how the test split came about.

    Raises DataError for a split without images.
    """
    note = source.note
    train, test = source.train, source.test
    if test is None:
        train, test = _held_out(train, HELD_OUT, seed)
        note = f"test held out with split seed {seed}"
    parts: dict[SplitName, Rows] = {"train": train, "test": test}
    if validation:
        parts["train"], parts["validation"] = _held_out(train, validation, seed)
    limited = {name: _limited(rows, limit, seed) for name, rows in parts.items()}
    parts, left_out = {name: rows for name, (rows, _) in limited.items()}, [rest for _, rest in limited.values()]
    for name, rows in parts.items():
        if not len(rows):
            raise DataError(f"{source.name} has no {'training' if name == 'train' else name} images.")
    return parts, left_out, note


def _held_out(rows: Rows, share: float, seed: int) -> tuple[Rows, Rows]:
    """The rows without a share of every class, and that share."""
    chosen = stratified(rows.labels, round(share * len(rows)), seed=seed)
    return rows.take(np.setdiff1d(np.arange(len(rows)), chosen)), rows.take(chosen)


def count_images(
    spec: str | os.PathLike[str], *, task: Task | str = DEFAULT, limit: int | None = None, validation: float = 0.0
) -> int | None:
    """Training images that ``load_data`` would give, none of them read; None for an id on the hub, a download.

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
        targets = (task_named(task) if isinstance(task, str) else task).targets
        source = _find(spec, targets, image_column=None, label_column=None)
        sizes = {"train": len(source.train)} | ({} if source.test is None else {"test": len(source.test)})
    train = sizes["train"] - (round(HELD_OUT * sizes["train"]) if len(sizes) == 1 else 0)
    train -= round(validation * train)
    return train if limit is None else min(train, limit)


def _check_limit(limit: int | None) -> None:
    if limit is not None and limit < 1:
        raise DataError(f"limit must be at least 1, not {limit}.")


def _is_table(path: Path) -> bool:
    return (path.is_file() and path.suffix == ".parquet") or (path.is_dir() and any(path.rglob("*.parquet")))


def _is_hub_id(text: str) -> bool:
    return re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", text) is not None


def _find(
    spec: str | os.PathLike[str], targets: Targets, *, image_column: str | None, label_column: str | None
) -> DataSource:
    if not isinstance(spec, str | os.PathLike):
        raise DataError(f"data {spec!r} is no 'digits', no path and no hub id, but of type {type(spec).__name__}.")
    text = os.fspath(spec)
    columns: dict[str, Any] = {"image_column": image_column, "label_column": label_column}
    labelled = targets is Targets.LABELS
    named = next((f"{name}={value!r}" for name, value in columns.items() if value is not None), "")
    if text == "digits":
        if named:
            raise DataError(f"{named} names a column of a table, and digits have none. Leave it out.")
        if not labelled:
            raise DataError(f"digits are images with labels, and the task asks for {targets.value}. Name other data.")
        return read_digits()
    read: TableReader = (
        partial(read_tables, **columns) if labelled else partial(pairs_in_tables, targets=targets, **columns)
    )
    path = Path(text).expanduser()
    if _is_table(path):
        return read_parquet(path.resolve(), read)
    if path.is_dir():
        if named:
            raise DataError(f"{named} names a column of a table, and {path} is a folder of images. Leave it out.")
        return read_folder(path.resolve()) if labelled else pairs_in_folder(path.resolve(), targets=targets)
    if not path.exists() and isinstance(spec, str) and _is_hub_id(spec):
        return read_hub(spec, read)
    raise _no_data(path)


def require_data_at(spec: str) -> None:
    """Raise DataError where no data of ``load_data`` are. Nothing is read; what may be an id on the hub passes."""
    path = Path(spec).expanduser()
    here = _is_table(path) or path.is_dir()
    if not here and spec != "digits" and (path.exists() or not _is_hub_id(spec)):
        raise _no_data(path)


def _no_data(path: Path) -> DataError:
    if path.exists():
        return DataError(f"{path} is a file, but not a parquet file. Pass a folder of images, or parquet.")
    return DataError(
        f"no data at {path.absolute()}: it does not exist. Pass 'digits', a folder, or a hub id like 'owner/name'."
    )


def _limited(rows: Rows, limit: int | None, seed: int) -> tuple[Rows, Rows]:
    """At most ``limit`` of the rows, every class in proportion, and the others."""
    every = np.arange(len(rows))
    if limit is None or limit >= len(rows):
        return rows, rows.take(every[:0])
    chosen = stratified(rows.labels, limit, seed=seed)
    return rows.take(chosen), rows.take(np.setdiff1d(every, chosen))


def _check_classes(source: DataSource) -> None:
    """Raise DataError for names that cannot be written, or not be told apart, in logs, labels and reports."""
    for name in source.classes:
        if len(name.splitlines()) != 1 or not name.strip() or printable(name) != name:
            raise DataError(
                f"{source.name} has a class called {name!r}: a name is one line of text in UTF-8, without "
                "control characters. Rename it."
            )
    if again := [name for name, number in Counter(source.classes).items() if number > 1]:
        raise DataError(f"{source.name} has two classes called {again[0]!r}. Rename one.")
