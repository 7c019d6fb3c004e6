"""What the data step hands on: splits of uint8 images with targets, and the facts that training needs of them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from reconvene.data.preprocessing import Preprocessing
from reconvene.errors import DataError
from reconvene.tasks import DEFAULT, Augmentation, Targets, Task

SplitName = Literal["train", "validation", "test"]


@dataclass(frozen=True, eq=False)
class Split:
    """``images`` uint8 ``[N, C, H, W]`` with ``targets`` ``[N, ...]``, as ``reconvene.tasks.Targets`` has them."""

    images: Tensor
    targets: Tensor

    def __len__(self) -> int:
        return self.targets.shape[0]


@dataclass(frozen=True, eq=False)
class Dataset:
    """Images with targets for a task. ``mean`` and ``std`` are per channel, of the training images scaled to [0, 1].

    ``classes`` are empty where the task has none; ``augmentation`` is what suits these images; ``note`` says how the
    splits came about, for the line that describes the data in logs and reports. ``validation``: training images that
    were held out to choose by, so that the test images are left to judge the result.
    """

    name: str
    train: Split
    test: Split
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    augmentation: Augmentation = field(default=Augmentation())  # frozen
    note: str = ""
    task: Task = field(default=DEFAULT)
    validation: Split | None = None

    def __str__(self) -> str:
        c, h, w = self.shape
        held_out = "" if self.validation is None else f", {len(self.validation)} validation"
        images = f"{len(self.train)} train{held_out} and {len(self.test)} test images {c}x{h}x{w}"
        return f"{self.name}: {images}, {self.task.describe(self.classes)}" + f", {self.note}" * bool(self.note)

    @property
    def shape(self) -> tuple[int, int, int]:
        """``(C, H, W)`` of every image."""
        c, h, w = self.train.images.shape[1:]
        return int(c), int(h), int(w)

    @property
    def choosing(self) -> SplitName:
        """The split that choices are made by while a network is trained or cut: ``test`` where there is no other."""
        return "test" if self.validation is None else "validation"

    def split(self, name: SplitName) -> Split:
        """One of the splits. Raises DataError where there is none, or where it is empty."""
        part = {"train": self.train, "validation": self.validation, "test": self.test}[name]
        if part is None or not len(part):
            raise DataError(f"{self.name} has no {'training' if name == 'train' else name} images.")
        return part

    @property
    def outputs(self) -> int:
        """Outputs (channels) that a model for this data needs."""
        return self.task.outputs(self.classes, self.train.targets)

    @property
    def strata(self) -> tuple[str, ...]:
        """The parts of the data that every sample of it shows alike: its classes, or one where images have no label."""
        return self.classes if self.task.targets is Targets.LABELS else ("images",)

    def stratum_of(self, split: Split) -> Tensor:
        """Which stratum each image of a split is of: int64 ``[N]``."""
        labelled = self.task.targets is Targets.LABELS
        return split.targets if labelled else torch.zeros(len(split), dtype=torch.int64)

    @property
    def preprocessing(self) -> Preprocessing:
        """What a picture from elsewhere must go through to look to a model like one of these."""
        return Preprocessing(self.shape, self.mean, self.std, self.classes, self.task.name)

    @cached_property
    def given_normalisation(self) -> dict[str, list[float]]:
        """Mean and spread where they are not those of the training images themselves; empty where they are."""
        own = (self.mean, self.std) == statistics(self.train.images)
        return {} if own else {"mean": list(self.mean), "std": list(self.std)}

    @cached_property
    def sha256(self) -> str:
        """Digest of every pixel and target of all splits, and of the class names: which data this is."""
        digest = hashlib.sha256("\0".join(self.classes).encode())
        for split in (self.train, self.test, *(() if self.validation is None else (self.validation,))):
            digest.update(str(tuple(split.images.shape)).encode())
            digest.update(split.images.contiguous().numpy().data)
            digest.update(split.targets.contiguous().numpy().data)
        return digest.hexdigest()

    def normalise(self, images: Tensor) -> Tensor:
        """uint8 ``[B, C, H, W]`` to float32 of the same shape: zero mean, unit spread per channel in training.

        Images of one channel come out with the strides of contiguous memory. Other strides pass for these, and say
        channels-last to PyTorch, which then computes a network of contiguous weights in that format: ``view`` behind a
        convolution fails, and a gradient writes past its buffer (see ``reconvene.training.memory_format``).
        """
        mean = torch.tensor(self.mean, dtype=torch.float32, device=images.device).mul_(255).view(1, -1, 1, 1)
        std = torch.tensor(self.std, dtype=torch.float32, device=images.device).mul_(255).view(1, -1, 1, 1)
        pixels = images.to(torch.float32)
        pixels = pixels.reshape(-1).view(pixels.shape) if pixels.shape[1] == 1 else pixels
        return pixels.sub_(mean).div_(std)

    def require(self, *, classes: int | None = None, input_shape: tuple[int, ...] | None = None) -> None:
        """Check that a model with ``classes`` outputs and inputs of ``(C, H, W)`` fits.

        Raises:
            DataError: it does not; the message says what was found and what to change.
        """
        if classes is not None and classes != len(self.classes):
            raise DataError(
                f"the model has {classes} outputs but {self.name} has {len(self.classes)} classes "
                f"({', '.join(self.classes[:5])}{', ...' if len(self.classes) > 5 else ''}). "
                f"Try: build the model with num_classes={len(self.classes)} (--model-arg num_classes="
                f"{len(self.classes)}), or name other data (--data)."
            )
        if input_shape is not None and tuple(input_shape) != self.shape:
            loaded, required = ("x".join(map(str, shape)) for shape in (self.shape, input_shape))
            raise DataError(
                f"the model takes {required} but {self.name} was loaded as {loaded}. Try: load_data(..., "
                f"input_shape={tuple(input_shape)})."
            )


def statistics(images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel of uint8 ``[N, C, H, W]`` scaled to [0, 1].

    Computed from exact integer counts, so that neither threads nor the order of images change a bit. A channel that
    never varies gets a deviation of one: it is only centred.
    """
    values = torch.arange(256, dtype=torch.float64) / 255
    means, deviations = [], []
    for channel in range(images.shape[1]):
        share = torch.bincount(images[:, channel].reshape(-1), minlength=256).to(torch.float64)
        share /= share.sum()
        mean = float(torch.dot(share, values))
        deviation = float(torch.dot(share, (values - mean).square()).sqrt())
        means.append(mean)
        deviations.append(deviation or 1.0)
    return tuple(means), tuple(deviations)
