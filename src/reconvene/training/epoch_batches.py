"""The training images of a data set as a loader: batches that can be iterated again, once an epoch."""

from __future__ import annotations

from collections.abc import Iterator

from reconvene.data import Batch, Dataset, train_batches
from reconvene.training.config import TrainConfig
from reconvene.training.machine import choose_device


class TrainingBatches:
    """The training images of a data set, shuffled and augmented anew every epoch; see ``rc.search``."""

    def __init__(self, dataset: Dataset, config: TrainConfig) -> None:
        self._dataset, self._config = dataset, config
        self._settled = config.settled(dataset, device=choose_device("cpu"))
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch the next pass is."""
        self._epoch = epoch

    def __len__(self) -> int:
        return len(self._dataset.train) // self._settled.batch_size

    def __iter__(self) -> Iterator[Batch]:
        return train_batches(
            self._dataset,
            batch_size=self._settled.batch_size,
            seed=self._settled.seed,
            epoch=self._epoch,
            augmentation=self._settled.augmentation(self._dataset),
        )

    def __str__(self) -> str:
        return f"{self._dataset.name} train"
