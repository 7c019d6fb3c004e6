"""Options that say which data, and what it is for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

from tyro.conf import arg

from reconvene.utils.progress import note

if TYPE_CHECKING:
    from reconvene.artifact import Artifact
    from reconvene.data import Dataset
    from reconvene.models import ModelSource
    from reconvene.workflow.prune import Samples


DIGITS = "digits"


def numbers(option: str, text: str | None) -> tuple[float, ...] | None:
    """The numbers of an option, separated by commas. Raises UsageError."""
    from reconvene.cli.command import UsageError

    try:
        return None if text is None else tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise UsageError(f"{option} {text} is not a list of numbers, such as 0.485,0.456,0.406") from error


@dataclass(kw_only=True)
class DataOptions:
    """Options that say which data."""

    heading: ClassVar[str] = "which data"
    options_of_data: ClassVar[tuple[str, ...]] = ("data", "limit", "task", "mean", "std")

    data: Annotated[str | None, arg(metavar="DATA")] = DIGITS
    """digits (handwritten, no download), a hub id such as owner/name, or a folder of images or parquet."""
    limit: Annotated[int | None, arg(metavar="N")] = None
    """At most N images of each split, every class in proportion."""
    task: Annotated[str | None, arg(metavar="NAME")] = None
    """What targets are: classification, segmentation, instances, instances-hv, regression, image-to-image. By default
    what the artifact was trained for, else classification."""
    mean: Annotated[str | None, arg(metavar="M[,M,M]")] = None
    """Mean of pixels from 0 to 1, by channel, that images are normalised with: 0.485,0.456,0.406; 0 with --std 1 leaves
    pixels from 0 to 1. By default what the artifact says, else the mean of the training images."""
    std: Annotated[str | None, arg(metavar="S[,S,S]")] = None
    """Standard deviation that they are divided by: 0.229,0.224,0.225. By default as with --mean."""

    @property
    def held_out(self) -> float:
        """Share of the training images that choices are made by."""
        return 0.0

    @property
    def normalisation(self) -> tuple[tuple[float, ...] | None, tuple[float, ...] | None]:
        """``--mean`` and ``--std`` as numbers. UsageError."""
        return numbers("--mean", self.mean), numbers("--std", self.std)

    def check_data_options(self) -> None:
        """Raise UsageError or UnknownNameError for a mean, a std or a task that no data can have, read or not."""
        from reconvene.tasks import task_named

        _ = self.normalisation  # reads both
        if self.task is not None:
            task_named(self.task)

    def note_unread(self, data: Samples) -> None:
        """Say which options about data changed nothing, where the data was not read."""
        from reconvene.cli.command import changed_options

        given = changed_options(self, self.options_of_data)
        if given and not data.was_read:
            note(f"no data was read: {', '.join(given)} changed nothing. A criterion such as snip or taylor reads data")

    def dataset(self, input_shape: tuple[int, ...] | None, directory: Path | None = None) -> Dataset:
        """The data, in the shape the model takes, for the task that was given, else for that of an artifact."""
        from reconvene.workflow.inputs import DataChoice, dataset_for

        choice = DataChoice(self.task, input_shape, self.limit, self.held_out, *self.normalisation)
        dataset = dataset_for(directory, self.data or DIGITS, choice)
        note(f"{dataset.name}: {dataset.preprocessing}")
        return dataset

    def refuse_other_normalisation(self, stored: Artifact) -> None:
        """UsageError for a mean or std beside those that the artifact's network was trained with."""
        from reconvene.cli.command import UsageError

        recorded = stored.normalised
        if recorded is None:
            return
        mean, std = self.normalisation
        for option, given, known in (("--mean", mean, recorded.mean), ("--std", std, recorded.std)):
            if given is not None and given != known:
                numbers_known = ",".join(f"{value:g}" for value in known)
                raise UsageError(
                    f"{option}: the network in {stored.folder} was trained with {numbers_known}, and "
                    f"images that are normalised otherwise say nothing of it. Leave {option} out"
                )

    def image_shape(self, given: tuple[int, ...] | None, source: ModelSource) -> tuple[int, ...] | None:
        """What images become for a model: the given shape, else the usual one of the task, else the model's."""
        from reconvene.tasks import task_named

        return given or (task_named(self.task).input_shape if self.task else None) or source.input_shape

    def examples(self, directory: Path | None = None) -> int | None:
        """Training images of an epoch; None where counting them takes a download, or an extra that is not installed."""
        from reconvene.data import count_images
        from reconvene.errors import MissingExtraError
        from reconvene.workflow.inputs import recorded_task

        try:
            images = count_images(
                self.data or DIGITS,
                task=self.task or recorded_task(directory),
                limit=self.limit,
                validation=self.held_out,
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
    """Hold out this share of the training images, of every class: curves (and prune --floor) go by them, and the test
    images judge the result alone."""

    @property
    def held_out(self) -> float:
        """Share of the training images that choices are made by."""
        return self.validation
