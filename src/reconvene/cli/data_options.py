"""Options that say which data, and what it is for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

from tyro.conf import arg

from reconvene.utils.progress import note

if TYPE_CHECKING:
    from reconvene.data import Dataset
    from reconvene.models import ModelSource


DIGITS = "digits"


@dataclass(kw_only=True)
class DataOptions:
    """Options that say which data."""

    heading: ClassVar[str] = "which data"

    data: Annotated[str | None, arg(metavar="DATA")] = DIGITS
    """digits (handwritten, no download), a hub id such as owner/name, or a folder of images or parquet."""
    limit: Annotated[int | None, arg(metavar="N")] = None
    """Use at most so many images of each split, every class in proportion."""
    task: Annotated[str | None, arg(metavar="NAME")] = None
    """What targets are: classification, segmentation, instances, instances-hv, regression, image-to-image. By default
    what the artifact was trained for, else classification."""

    @property
    def held_out(self) -> float:
        """Share of the training images that choices are made by."""
        return 0.0

    def dataset(self, input_shape: tuple[int, ...] | None, directory: Path | None = None) -> Dataset:
        """The data, in the shape the model takes, for the task that was given, else for that of an artifact."""
        from reconvene.data import load_data
        from reconvene.workflow.inputs import recorded_task

        task = self.task or recorded_task(directory)
        return load_data(
            self.data or DIGITS, task=task, input_shape=input_shape, limit=self.limit, validation=self.held_out
        )

    def image_shape(self, given: tuple[int, ...] | None, source: ModelSource) -> tuple[int, ...] | None:
        """What images become for a model: the given shape, else the usual one of the task, else the model's."""
        from reconvene.tasks import task_named

        return given or (task_named(self.task).input_shape if self.task else None) or source.input_shape

    def examples(self) -> int | None:
        """Training images of an epoch; None where counting them takes a download, or an extra that is not installed."""
        from reconvene.data import count_images
        from reconvene.errors import MissingExtraError
        from reconvene.workflow.inputs import recorded_task

        try:
            images = count_images(
                self.data or DIGITS, task=self.task or recorded_task(None), limit=self.limit, validation=self.held_out
            )
        except MissingExtraError:
            return None
        if images is None:
            note(f"no folder {self.data} here: taken for an id on the hub, and not looked up now")
        return images


@dataclass(kw_only=True)
class TrainingDataOptions(DataOptions):
    """Options that say which data a network is trained on."""

    validation: Annotated[float, arg(metavar="SHARE")] = 0.0
    """Hold out this share of the training images, of every class: curves and --floor go by them, and the test images
    judge the result alone."""

    @property
    def held_out(self) -> float:
        """Share of the training images that choices are made by."""
        return self.validation
