"""A folder of images: one sub-folder a class, with or without a train/ and a test/ folder above them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from reconvene.data.source import DataSource, Rows, import_data_extra, validation_note
from reconvene.errors import DataError
from reconvene.utils.escaping import printable

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".ppm", ".pgm", ".tif", ".tiff"})
TEST_NAMES = ("test", "val", "valid", "validation")


def read_folder(root: Path) -> DataSource:
    """Find the classes and images under ``root``; nothing is decoded yet.

    Raises:
        DataError: no class sub-folders with images, an empty class, or a test class that training does not have.
    """
    train, test, note = split_folders(root)
    classes = tuple(_subfolders(train))
    if not classes:
        raise DataError(
            f"{root} holds neither parquet files nor class sub-folders with images. "
            f"Expected {root}/CLASS/*.jpg or {root}/train/CLASS/*.jpg and {root}/test/CLASS/*.jpg (or .png, ...)."
        )
    if test is not None and (strange := sorted(set(_subfolders(test)) - set(classes))):
        raise DataError(f"{test} has classes that {train} has not: {', '.join(strange)}.")
    return DataSource(
        printable(root.name),
        classes,
        _rows(train, classes),
        None if test is None else _rows(test, classes, partly=True),
        note=note,
    )


def split_folders(root: Path) -> tuple[Path, Path | None, str]:
    """The folders of the training and of the test images, and what becomes of one for validation."""
    if not (root / "train").is_dir():
        return root, None, ""
    named = [name for name in TEST_NAMES if (root / name).is_dir()]
    has_validation = any(name != "test" for name in named)
    note = validation_note(tested="test" in named) if has_validation else ""
    return root / "train", root / named[0] if named else None, note


def _subfolders(root: Path) -> list[str]:
    return sorted(path.name for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))


def _rows(root: Path, classes: tuple[str, ...], *, partly: bool = False) -> Rows:
    """``partly``: a class may be absent, as in a small test split."""
    image = import_data_extra("PIL.Image", "pillow", "decoding images")
    paths: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        images = sorted(path for path in (root / name).rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
        if not images and not partly:
            raise DataError(f"class folder {root / name} holds no images (looked for {', '.join(sorted(SUFFIXES))}).")
        paths += images
        labels += [label] * len(images)
    return Rows(np.array(labels, dtype=np.int64), lambda i: image.open(paths[i]), lambda i: str(paths[i]))
