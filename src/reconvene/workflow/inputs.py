"""What steps are given as names, looked up: data, and models."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path

from reconvene.artifact import Artifact
from reconvene.data import Dataset, Preprocessing, load_data
from reconvene.errors import ArtifactError, DataError
from reconvene.models import ModelSource, resolve_address
from reconvene.tasks import DEFAULT, Targets

DataLike = Dataset | str | os.PathLike[str]
"""A data set, or what ``reconvene.data.load_data`` takes: ``digits``, a folder of images, parquet, an id on the hub."""


@dataclass(frozen=True)
class DataChoice:
    """How data are loaded for an artifact, where that is not as it says itself."""

    task: str | None = None
    input_shape: tuple[int, ...] | None = None
    limit: int | None = None
    validation: float = 0.0
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None


def dataset_for(folder: Path | None, data: DataLike, choice: DataChoice = DataChoice()) -> Dataset:
    """The data as an artifact's network reads them: shape, task, mean and std are those that it was trained with.

    Without an artifact, or where nothing was trained, the task is classification, and mean and std are those of the
    training images. Raises DataError.
    """
    if isinstance(data, Dataset):
        return data
    stored = None if folder is None else Artifact.open(folder)
    recorded = None if stored is None else stored.normalised
    shape = choice.input_shape or (None if stored is None else stored.source.input_shape)
    mean, std = choice.mean, choice.std
    if recorded is not None and (shape is None or shape[0] == len(recorded.mean)):
        mean, std = mean or recorded.mean, std or recorded.std
    return load_data(
        data,
        task=choice.task or recorded_task(folder),
        input_shape=shape,
        limit=choice.limit,
        validation=choice.validation,
        mean=mean,
        std=std,
    )


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


def preparation(stored: Artifact, dataset: Dataset | None) -> Preprocessing:
    """What pictures go through: as in training, or where nothing was trained, as the dataset says.

    Raises DataError for data of another task, shape or other classes than the network was trained on; ArtifactError
    where neither says anything.
    """
    preprocessing = stored.preprocessing
    if preprocessing is None:
        if dataset is None:
            raise ArtifactError(
                f"{stored.folder} does not say how its images are prepared or what its classes are called: it was not "
                "trained by this version. Name the data that it is for (--data), or train it"
            )
        normalised = stored.normalisation
        if normalised is None or len(normalised.mean) != dataset.shape[0]:
            return dataset.preprocessing
        return replace(dataset.preprocessing, mean=normalised.mean, std=normalised.std)
    alike = ("task", "classes", "shape")
    if dataset is not None and any(
        getattr(dataset.preprocessing, name) != getattr(preprocessing, name) for name in alike
    ):
        # Earlier releases took the values of maps from the images that --limit left.
        fewer = set(preprocessing.classes) < set(dataset.classes) and dataset.task.targets is Targets.MAPS
        again = ", or train it again if it was trained on a part of the maps" if fewer else ""
        raise DataError(
            f"{dataset.name} ({_describe(dataset.preprocessing)}) is not what the model in {stored.folder} was trained "
            f"on ({_describe(preprocessing)}). Try: --data with that data{again}"
        )
    return preprocessing


def _describe(preprocessing: Preprocessing) -> str:
    some = ", ".join(preprocessing.classes[:3]) + ", ..." * (len(preprocessing.classes) > 3)
    shape = "x".join(map(str, preprocessing.shape))
    return f"{shape}, {preprocessing.task}" + (f", {len(preprocessing.classes)} classes: {some}" if some else "")
