"""Tables with a column of images and a column of labels: local parquet files, and datasets from the hub."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reconvene.data.audio import log_mel
from reconvene.data.source import DataSource, Rows, import_data_extra, validation_note
from reconvene.errors import DataError
from reconvene.utils.escaping import printable

IMAGE_COLUMNS = ("img", "image")
AUDIO_COLUMNS = ("audio",)
LABEL_COLUMNS = ("label", "labels", "fine_label", "class", "target")
SPLIT_WORDS = {"train": "train", "test": "test", "val": "val", "valid": "val", "validation": "val"}


TableReader = Callable[[str, Mapping[str, Any]], DataSource]
"""Makes a source of a name and arrow tables by split: ``train``, and ``test`` or ``val``."""


def read_parquet(root: Path, read: TableReader) -> DataSource:
    """Read the parquet files under ``root`` (or ``root`` itself); words in their names tell train from test.

    Raises:
        DataError: a damaged file, files whose split cannot be told, no image or label column, unusable labels.
        MissingExtraError: pyarrow (it comes with ``datasets``) is absent.
    """
    pyarrow = import_data_extra("pyarrow", "pyarrow", "reading parquet files")
    parquet = import_data_extra("pyarrow.parquet", "pyarrow", "reading parquet files")
    tables: dict[str, Any] = {}
    for split, paths in _by_split(root).items():
        try:
            tables[split] = pyarrow.concat_tables(
                [parquet.read_table(path) for path in paths], promote_options="default"
            )
        except (pyarrow.ArrowException, OSError) as error:
            raise DataError(f"cannot read {', '.join(map(str, paths))}: {error}") from error
    return read(printable(root.stem), tables)


def count_parquet(root: Path) -> dict[str, int]:
    """Rows of every split, from the files' own footers. Raises as ``read_parquet`` does for files."""
    pyarrow = import_data_extra("pyarrow", "pyarrow", "reading parquet files")
    parquet = import_data_extra("pyarrow.parquet", "pyarrow", "reading parquet files")
    rows: dict[str, int] = {}
    for split, paths in _by_split(root).items():
        try:
            rows[split] = sum(parquet.read_metadata(path).num_rows for path in paths)
        except (pyarrow.ArrowException, OSError) as error:
            raise DataError(f"cannot read {', '.join(map(str, paths))}: {error}") from error
    return rows


def read_hub(name: str, read: TableReader) -> DataSource:
    """Read a dataset by its id on the Hugging Face hub (or from its local cache).

    Raises:
        DataError: it does not exist, the hub cannot be reached, or it is not labelled images.
        MissingExtraError: ``datasets`` is absent.
    """
    datasets = import_data_extra("datasets", "datasets", f"{name!r} is no folder here, and reading it as a hub dataset")
    try:
        splits = datasets.load_dataset(name)
    except (OSError, ValueError, RuntimeError) as error:
        raise DataError(
            f"no folder {Path(name).absolute()} here, and the dataset hub's {name!r} could not be read "
            f"({type(error).__name__}: {error}). Without a network, pass 'digits' or a folder of parquet or images."
        ) from error
    tables = {SPLIT_WORDS[key]: part.with_format("arrow")[:] for key, part in splits.items() if key in SPLIT_WORDS}
    if "train" not in tables:
        raise DataError(f"hub dataset {name!r} has no train split, only: {', '.join(splits)}.")
    return read(name, tables)


def read_tables(
    name: str, tables: Mapping[str, Any], *, image_column: str | None, label_column: str | None
) -> DataSource:
    """Turn arrow tables, one a split (``train``, and ``test`` or ``val``), into a source of labelled images.

    Where there is sound and no image, images are log-mels of the sound.
    """
    train = tables["train"]
    kinds = column_kinds(train, name)
    sound = _sound_column(kinds, image_column)
    image = sound or find_column("image", image_column, IMAGE_COLUMNS, kinds, name)
    label = find_column("label", label_column, LABEL_COLUMNS, kinds, name)
    test, note = test_table(tables)
    parts = [part for part in (train, test) if part is not None]
    labels = [_labels(part, label, name) for part in parts]
    names = [_class_names(_features(part, name).get(label, {}), label, name) for part in parts]
    if any(of_test is not None and of_test != names[0] for of_test in names[1:]):
        raise DataError(
            f"the splits of {name} name the classes of {label!r} otherwise, so a label means another class in each: "
            f"train {names[0]}, test {names[1]}. Write both with the same names in the same order."
        )
    classes, coded = _classes(labels, names[0], label, name)
    rows = [_rows(part, image, code, name, sound is not None) for part, code in zip((train, test), coded, strict=False)]
    tested = rows[1] if test is not None else None
    return DataSource(name, classes, rows[0], tested, sound=sound is not None, note=note)


def test_table(tables: Mapping[str, Any]) -> tuple[Any, str]:
    """The table of the test split, None without one, and what becomes of one for validation."""
    note = validation_note(tested="test" in tables) if "val" in tables else ""
    return tables.get("test", tables.get("val")), note


def _sound_column(kinds: Mapping[str, str | None], requested: str | None) -> str | None:
    """The column of sound that stands for images: one that was requested, or one of data without images."""
    sounds = [name for name, kind in kinds.items() if kind == "Audio" or (kind is None and name in AUDIO_COLUMNS)]
    if requested is not None:
        return requested if requested in sounds else None
    has_images = any(kind == "Image" or name in IMAGE_COLUMNS for name, kind in kinds.items())
    return sounds[0] if sounds and not has_images else None


def _by_split(root: Path) -> dict[str, list[Path]]:
    paths = [root] if root.is_file() else sorted(root.rglob("*.parquet"))
    paths_by_split: dict[str, list[Path]] = {}
    for path in paths:
        splits = _splits_named(path, root)
        paths_by_split.setdefault(splits.pop() if len(splits) == 1 else "?", []).append(path)
    if list(paths_by_split) == ["?"] and not any(_splits_named(path, root) for path in paths):
        return {"train": paths}
    if "?" in paths_by_split or "train" not in paths_by_split:
        listed = ", ".join(path.name for path in paths)
        raise DataError(
            f"cannot tell train from test among the files of {root}: {listed}. Put 'train' or 'test' in each name."
        )
    return paths_by_split


def _splits_named(path: Path, root: Path) -> set[str]:
    """The splits that the words of a path name."""
    text = path.name if root.is_file() else str(path.relative_to(root))
    return {SPLIT_WORDS[word] for word in re.split(r"[^a-z]+", text.lower()) if word in SPLIT_WORDS}


def _features(table: Any, name: str) -> dict[str, dict[str, Any]]:
    """Column kinds and class names, as the ``datasets`` library writes them into the schema; empty where it did not.

    Raises DataError where something else stands in their place: without them labels would lose their names.
    """
    metadata = (table.schema.metadata or {}).get(b"huggingface")
    if metadata is None:
        return {}
    try:
        notes = json.loads(metadata)
        features = notes.get("info", {}).get("features", {})
        return {column: feature for column, feature in features.items() if isinstance(feature, dict)}
    except (ValueError, AttributeError, RecursionError) as error:
        raise DataError(
            f"the schema of {name} holds huggingface metadata of another form than the datasets library writes "
            f"({error}). Write the table again without that metadata, for instance with replace_schema_metadata()."
        ) from error


def column_kinds(table: Any, name: str) -> dict[str, str | None]:
    """What the schema says of every column, such as ``Image``; None where it says nothing. Raises DataError."""
    features = _features(table, name)
    return {column: features.get(column, {}).get("_type") for column in table.column_names}


def _class_names(feature: Mapping[str, Any], column: str, name: str) -> list[str] | None:
    """Names of the classes as the schema lists them; ``None`` where it does not."""
    names = feature.get("names")
    if names is None:
        return None
    if not isinstance(names, list) or not all(isinstance(entry, str) for entry in names):
        raise DataError(
            f"the schema of {name} names the classes of column {column!r} {names!r}, which is not a list of text."
        )
    return names


def find_column(
    role: str, requested: str | None, usual_names: tuple[str, ...], kinds: dict[str, str | None], name: str
) -> str:
    """The column that is the ``image``, the ``label`` or the ``target``.

    That requested; else the first of a usual name; else the only one of the right kind.

    Raises DataError.
    """
    listed = ", ".join(kinds)
    if requested is not None:
        if requested not in kinds:
            raise DataError(f"{name} has no column {requested!r}. Its columns: {listed}.")
        return requested
    usual_columns = [column for column in usual_names if column in kinds]
    typed = [
        column
        for column, column_type in kinds.items()
        if column_type == {"image": "Image", "label": "ClassLabel", "target": "Image"}[role]
    ]
    if usual_columns:
        return usual_columns[0]
    if len(typed) == 1:
        return typed[0]
    masks = [column for column, column_type in kinds.items() if column_type == "Image" and column not in IMAGE_COLUMNS]
    hint = (
        f" Column {masks[0]!r} holds images: for segmentation, task='segmentation' (--task segmentation)."
        if role == "label" and masks
        else ""
    )
    option = "image_column" if role == "image" else "label_column"
    raise DataError(
        f"no {role} column found in {name}. Its columns: {listed}. Expected one of {', '.join(usual_names)}, "
        f"or name it with {option}.{hint}"
    )


def _labels(table: Any, column: str, name: str) -> NDArray[Any]:
    values = table.column(column)
    if values.null_count:
        raise DataError(f"{values.null_count} of {len(values)} rows of {name} have no {column!r}.")
    try:
        labels: NDArray[Any] = np.asarray(values.to_pylist())
    except ValueError:  # lists of different lengths make no array
        labels = np.empty((len(values), 0))
    if len(labels) and (labels.ndim != 1 or labels.dtype.kind not in "iuUb"):
        raise DataError(f"column {column!r} of {name} holds {values.type}, not classes (integers or strings).")
    return labels


def _classes(
    splits: list[NDArray[Any]], names: list[str] | None, column: str, name: str
) -> tuple[tuple[str, ...], list[NDArray[np.int64]]]:
    """Class names, and each split's labels as positions among them. Without names, the values are the names."""
    kinds = {labels.dtype.kind == "U" for labels in splits if len(labels)}
    if len(kinds) > 1:
        raise DataError(f"column {column!r} of {name} holds strings in one split and numbers in the other.")
    values = np.unique(np.concatenate([labels for labels in splits if len(labels)] or [np.empty(0, np.int64)]))
    if names is None or values.dtype.kind == "U":
        coded = [np.searchsorted(values, labels).astype(np.int64) for labels in splits]
        return tuple(str(value) for value in values), coded
    if len(values) and not (values[0] >= 0 and values[-1] < len(names)):
        strange = values[(values < 0) | (values >= len(names))][0]
        raise DataError(
            f"column {column!r} of {name} holds the label {strange}, but its {len(names)} classes count from 0."
        )
    return tuple(names), [labels.astype(np.int64) for labels in splits]


def _rows(table: Any, column: str, labels: NDArray[np.int64], name: str, sound: bool) -> Rows:
    return Rows(labels, *(sound_cells if sound else image_cells)(table, column, name))


_Cells = tuple[Callable[[int], Any], Callable[[int], str]]
"""How to open the picture in a row of a column, and what that row is called in errors."""


def image_cells(table: Any, column: str, name: str) -> _Cells:
    """The pictures of a column."""
    image = import_data_extra("PIL.Image", "pillow", "decoding images")

    def opened(content: bytes | None, path: str | None) -> Any:
        return image.open(io.BytesIO(content) if content is not None else path)

    return _cells(table, column, name, opened)


def sound_cells(table: Any, column: str, name: str) -> _Cells:
    """The log-mels of a column of sound."""

    def opened(content: bytes | None, path: str | None) -> Any:
        return log_mel(content if content is not None else Path(str(path)).read_bytes())

    return _cells(table, column, name, opened)


def _cells(table: Any, column: str, name: str, opened: Callable[[bytes | None, str | None], Any]) -> _Cells:
    cells = table.column(column)

    def open_row(i: int) -> Any:
        cell = cells[i].as_py()
        content, path = (cell.get("bytes"), cell.get("path")) if isinstance(cell, dict) else (cell, None)
        if content is None and path is None:
            raise OSError("the cell is empty")
        if content is not None and not isinstance(content, bytes):
            raise OSError(f"the cell holds {type(content).__name__}, not a file's bytes")
        return opened(content, path)

    return open_row, lambda i: f"{name}, column {column!r}, row {i}"
