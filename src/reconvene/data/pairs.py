"""Images with a map, a picture or numbers as their target: columns of a table, or two folders side by side."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reconvene.data.folder import SUFFIXES, split_folders
from reconvene.data.source import DataSource, Rows, import_data_extra
from reconvene.data.table import IMAGE_COLUMNS, column_kinds, find_column, image_cells, test_table
from reconvene.errors import DataError
from reconvene.tasks import Targets
from reconvene.utils.escaping import printable

NUMBERED = ("instances", "instance", "instance_map", "instance_maps")
"""Columns and folders whose maps number objects; those of other names hold classes."""
_NAMES = {
    Targets.MAPS: (*NUMBERED, "masks", "mask", "annotations", "annotation", "segmentation", "label", "labels"),
    Targets.PICTURES: ("targets", "target", "target_image", "output", "label"),
    Targets.VALUES: ("targets", "target", "values", "value", "label"),
}
"""Usual names of columns and folders of targets, the likeliest first."""
IMAGE_FOLDERS = ("images", "image", "imgs", "img")


def pairs_in_tables(
    name: str, tables: Mapping[str, Any], *, targets: Targets, image_column: str | None, label_column: str | None
) -> DataSource:
    """Turn arrow tables, one a split, into a source of images with ``targets`` from a second column.

    Raises DataError: no such column, numbers that are none.
    """
    train, (test, note) = tables["train"], test_table(tables)
    kinds = column_kinds(train, name)
    image = find_column("image", image_column, IMAGE_COLUMNS, kinds, name)
    column = find_column("target", label_column, _NAMES[targets], {k: v for k, v in kinds.items() if k != image}, name)
    rows = [_table_rows(part, image, column, targets, name) for part in (train, test) if part is not None]
    return DataSource(name, (), rows[0], rows[1] if test is not None else None, numbered=column in NUMBERED, note=note)


def pairs_in_folder(root: Path, *, targets: Targets) -> DataSource:
    """Read ``images`` beside ``masks`` (or ``instances``, ``targets``) in ``root``, or in its ``train`` and ``test``.

    Pictures of a pair have the same name but for the ending.

    Raises DataError: no such folders, an image without a target or the other way round, numbers asked for.
    """
    if targets is Targets.VALUES:
        raise DataError(
            f"{root} is a folder of pictures, and the task asks for numbers, which are read from tables alone. Write "
            f"parquet files with a column 'image' (the bytes of a picture file) and a column 'target' (a number, or a "
            "list of numbers). For pictures as targets, try the task 'image-to-image'."
        )
    train, test, note = split_folders(root)
    rows, folder = _folder_rows(train, targets)
    tested = None if test is None else _folder_rows(test, targets)[0]
    return DataSource(printable(root.name), (), rows, tested, numbered=folder in NUMBERED, note=note)


def _table_rows(table: Any, image_column: str, column: str, targets: Targets, name: str) -> Rows:
    alike = np.zeros(len(table), dtype=np.int64)  # no image is of another stratum than the next
    opened, locate = image_cells(table, image_column, name)
    if targets is Targets.VALUES:
        return Rows(alike, opened, locate, values=_numbers(table, column, name))
    return Rows(alike, opened, locate, target=image_cells(table, column, name)[0])


def _numbers(table: Any, column: str, name: str) -> NDArray[np.float32]:
    try:
        values = np.asarray(table.column(column).to_pylist(), dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise DataError(
            f"column {column!r} of {name} holds {table.column(column).type}, not one number, or equally many, a row."
        ) from error
    if values.ndim > 2 or not np.isfinite(values).all():
        raise DataError(f"column {column!r} of {name} holds values that are not finite numbers, or lists of lists.")
    return values


def _folder_rows(root: Path, targets: Targets) -> tuple[Rows, str]:
    image = import_data_extra("PIL.Image", "pillow", "decoding images")
    folders = {path.name: path for path in root.iterdir() if path.is_dir()}
    images = next((folders[name] for name in IMAGE_FOLDERS if name in folders), None)
    found = next((folders[name] for name in _NAMES[targets] if name in folders), None)
    if images is None or found is None:
        names = ", ".join(sorted(folders)) or "none"
        raise DataError(
            f"{root} holds no pairs of images and {targets.value}: its folders are {names}. "
            f"Expected {root}/images/NAME.png beside {root}/{_NAMES[targets][0]}/NAME.png (or {_NAMES[targets][-2]}), "
            f"or the same in {root}/train and {root}/test."
        )
    pictures, others = _by_name(images), _by_name(found)
    for named, partners, folder, partner in ((pictures, others, images, found), (others, pictures, found, images)):
        if alone := sorted(set(named) - set(partners)):
            listed = ", ".join(alone[:3]) + (", ..." if len(alone) > 3 else "")
            raise DataError(
                f"{partner} lacks {len(alone)} of the {len(named)} names in {folder}: {listed}. An image and its "
                "target have the same name but for the ending: 0001.jpg and 0001.png, not 0001_mask.png."
            )
    paths = [(pictures[name], others[name]) for name in sorted(pictures)]
    rows = Rows(
        np.zeros(len(paths), dtype=np.int64),
        lambda i: image.open(paths[i][0]),
        lambda i: str(paths[i][0]),
        target=lambda i: image.open(paths[i][1]),
    )
    return rows, found.name


def _by_name(folder: Path) -> dict[str, Path]:
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    named = {str(path.relative_to(folder).with_suffix("")): path for path in paths}
    if len(named) < len(paths):
        raise DataError(f"{folder} holds two pictures of the same name but for the ending. Keep one of them.")
    return named
