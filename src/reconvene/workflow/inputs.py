"""What steps are given as names, looked up: data, and models."""

from __future__ import annotations

import os
from pathlib import Path

from reconvene.artifact import Artifact
from reconvene.data import Dataset, load_data
from reconvene.models import ModelSource, resolve_address
from reconvene.tasks import DEFAULT

DataLike = Dataset | str | os.PathLike[str]
"""A data set, or what ``reconvene.data.load_data`` takes: ``digits``, a folder of images, parquet, an id on the hub."""


def dataset_for(folder: Path, data: DataLike) -> Dataset:
    """The data in the shape that an artifact's model takes, for the task that it was trained for. Raises DataError."""
    if isinstance(data, Dataset):
        return data
    return load_data(data, task=recorded_task(folder), input_shape=Artifact.open(folder).source.input_shape)


def model_and_data(
    model: ModelSource | str, data: DataLike, *, seed: int, allow_import: bool
) -> tuple[ModelSource, Dataset]:
    """A model with as many outputs as the data have classes, and the data in the shape that it takes.

    Raises UnknownNameError, ModelError, MissingExtraError, DataError.
    """
    shape = data.shape if isinstance(data, Dataset) else None
    if isinstance(model, ModelSource):
        source = model
    else:
        source = resolve_address(model, input_shape=shape, seed=seed, allow_import=allow_import)
    dataset = data if isinstance(data, Dataset) else load_data(data, input_shape=source.input_shape)
    return source.with_classes(dataset.outputs), dataset


def recorded_task(directory: Path | None) -> str:
    """The task that an artifact was trained for; the default where it was not, or without an artifact."""
    preprocessing = None if directory is None else Artifact.open(directory).preprocessing
    return DEFAULT.name if preprocessing is None else preprocessing.task
