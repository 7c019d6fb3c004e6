"""What a network is trained for: a task says what is minimised, what is measured, and when two networks agree."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from reconvene.errors import TrainingError
from reconvene.tasks.measures import Assessment, Evaluation, MeanAssessment, MeanEvaluation, MeanMeter, Meter

Picture = NDArray[np.uint8]
"""``[H, W, 3]``, as a report shows it."""


class Targets(StrEnum):
    """What a data set must hold beside its images, and how training moves it along with them."""

    LABELS = "labels"
    """One class an image: int64 ``[N]``."""
    MAPS = "maps"
    """One integer a pixel, a class or the number of an object: int32 ``[N, H, W]``; moved as the image is."""
    PICTURES = "pictures"
    """One picture an image: uint8 ``[N, C, H, W]``; moved as the image is."""
    VALUES = "values"
    """Numbers: float32 ``[N]`` or ``[N, D]``."""

    @property
    def spatial(self) -> bool:
        """Whether a target has the height and width of its image."""
        return self in (Targets.MAPS, Targets.PICTURES)


@dataclass(frozen=True)
class Augmentation:
    """Random changes of a training image: a shift by up to ``pad`` pixels, and a flip half the time."""

    pad: int = 0
    flip: bool = False

    def __str__(self) -> str:
        parts = [f"shift by {self.pad}"] * (self.pad > 0) + ["flip"] * self.flip
        return " and ".join(parts) or "none"


class Task(ABC):
    """A task. ``loss`` and ``metrics`` must be given; all else has a default that suits outputs which are numbers.

    Outputs are what the network returns for a batch, in float32; targets are what the data set holds for it. A task has
    no state. Entered in ``reconvene.tasks.TASKS``, it can be named everywhere: in artifacts, exports and commands::

        class Depth(Task):
            name, headline, targets = "depth", "error", Targets.PICTURES

            def loss(self, output, target):
                return F.l1_loss(output, target / 255)

            def metrics(self, output, target):
                return {"error": (output - target / 255).abs().flatten(1).mean(1)}


        TASKS["depth"] = Depth()
    """

    name: str
    headline: str
    """The metric that networks are compared by."""
    larger_is_better: bool = True
    """Of the headline."""
    is_share: bool = False
    """Whether the headline is a share in [0, 1] that people read in percent."""
    part: str = "part"
    """What the parts of the data are by which an evaluation gives the headline."""
    pipeline: str | None = None
    """What the Hugging Face hub calls the task, for the card of a model."""
    targets: Targets = Targets.VALUES
    numbered: bool = False
    """Whether maps number objects; else their values are classes."""
    instances: str | None = None
    """The task that takes over where maps number objects and this one reads classes."""
    input_shape: tuple[int, int, int] | None = None
    """What images become where the user asks for no shape; ``None`` leaves it to the network."""
    notable_loss: float = 0.0
    """A difference of the loss below which two networks are taken to be equally good."""

    @abstractmethod
    def loss(self, output: Any, target: Tensor) -> Tensor:
        """What training minimises: a scalar, the mean over the batch."""

    @abstractmethod
    def metrics(self, output: Any, target: Tensor) -> Mapping[str, Tensor]:
        """By name, one value an example ``[B]``; a data set's is the mean over its examples."""

    def agreement(self, reference: Tensor, output: Tensor, *, tie: float | None = None) -> Tensor | None:
        """Which predictions of two networks are the same: bool of any shape. ``None``: the error alone decides.

        Args:
            reference: one output tensor of the first network; ``output``: the same of the second.
            tie: values that are no further apart in ``reference`` count as equal.
        """
        return None

    # What follows has defaults.

    def training_loss(self, output: Any, target: Tensor, *, label_smoothing: float) -> Tensor:
        """``loss`` as a training step takes it. ``label_smoothing`` is for tasks with classes."""
        return self.loss(output, target)

    def losses(self, output: Any, target: Tensor) -> Tensor:
        """Values ``[B]`` whose mean is ``loss``."""
        return self.loss(output, target).detach().expand(len(target))

    def soft_loss(self, output: Any, teacher: Any, temperature: float) -> Tensor:
        """How far a student's output is from its teacher's: the mean squared error, for numbers."""
        pairs = zip(_tensors(output), _tensors(teacher), strict=True)
        return torch.stack([F.mse_loss(student, teacher_output) for student, teacher_output in pairs]).sum()

    def correct(self, output: Any, target: Tensor) -> Tensor | None:
        """The headline summed over a batch, where it is so cheap that training says it of every epoch."""
        return None

    def quality(self, output: Tensor, target: Tensor) -> float | None:
        """A share in [0, 1] that a quantised file must keep; ``None`` where there is none of this output."""
        return None

    def counts(self, output: Any, target: Tensor) -> Tensor:
        """What ``doubt`` needs of a batch, ``[K]``: sums that are added up over batches and processes."""
        return target.new_zeros(0, dtype=torch.float64)

    def doubt(self, metrics: Mapping[str, float], counts: Tensor) -> str | None:
        """What speaks against calling a network trained, by its metrics and the summed ``counts``; None: nothing."""
        return None

    def recognises(self, output: Tensor, target: Tensor | None) -> bool:
        """Whether ``target`` proves that ``output`` is of this task, where nobody said of which task it is."""
        return False

    def witness(self) -> Witness:
        """An observer of the predictions that an agreement is about."""
        return Witness()

    def outputs(self, classes: Sequence[str], target: Tensor) -> int:
        """How many outputs (channels) a network needs for these ``classes`` and targets as ``target``."""
        return len(classes) or (int(target.shape[1]) if target.ndim > 1 else 1)

    def check(self, output: Any, target: Tensor, *, classes: Sequence[str], data: str, role: str = "the model") -> Any:
        """``output``, if the task can read it. Raises TrainingError with what came and what to change."""
        for tensor in _tensors(output):
            if not tensor.ndim or len(tensor) != len(target):
                raise TrainingError(
                    f"{role} returns a tensor {list(tensor.shape)} for {len(target)} images of {data}; "
                    f"{self.name} needs [{len(target)}, ...]."
                )
        return output

    def describe(self, classes: Sequence[str]) -> str:
        """What the targets of a data set are, for the line that describes it."""
        return f"{self.name} of {len(classes)} classes" if classes else self.name

    def identity(self) -> dict[str, Any]:
        """What of the task makes a training run this one."""
        return {"task": self.name}

    def augmentation(self, classes: Sequence[str], shape: tuple[int, int, int]) -> Augmentation:
        """The random changes that suit images ``(C, H, W)``."""
        return Augmentation(flip=self.targets.spatial)

    def meter(self, classes: Sequence[str], device: torch.device) -> Meter:
        """An empty sum over batches."""
        return MeanMeter(self)

    def evaluation(self, values: Mapping[str, Any]) -> Evaluation:
        """Undo ``Evaluation.to_dict``."""
        return MeanEvaluation(**values)

    def predict(self, output: Any) -> tuple[Tensor, ...]:
        """What is kept of a batch's output to assess it and to compare it with another network's, on the CPU."""
        return tuple(tensor.detach().float().cpu() for tensor in _tensors(output))

    def assess(
        self,
        predictions: tuple[Tensor, ...],
        target: Tensor,
        classes: Sequence[str],
        *,
        dense: tuple[Tensor, ...] | None = None,
    ) -> Assessment:
        """Judge the predictions of a whole split, where given beside those of a dense network."""
        output = predictions[0] if len(predictions) == 1 else predictions
        metrics = {name: float(values.double().mean()) for name, values in self.metrics(output, target).items()}
        same = [] if dense is None else [self.agreement(a, b) for a, b in zip(dense, predictions, strict=True)]
        equal = [values.flatten() for values in same if values is not None]
        agreement = float(torch.cat(equal).double().mean()) if equal else None
        return MeanAssessment(self.headline, metrics, len(target), agreement)

    def show(self, value: float) -> str:
        """The headline's value, as people read it."""
        return f"{value:.2%}" if self.is_share else f"{value:.4g}"

    def difference(self, value: float) -> str:
        """A difference of two headlines, as people read it."""
        return f"{100 * value:+.2f} points" if self.is_share else f"{value:+.4g}"

    def read_assessment(self, values: Mapping[str, Any]) -> Assessment:
        """Undo ``Assessment.to_dict``."""
        return MeanAssessment(**values)

    def draw(self, values: Tensor, *, is_target: bool = False) -> Picture | None:
        """A picture of one prediction (of ``predict``) or target; ``None`` where there is nothing to see."""
        return None


class Witness:
    """Looks at predictions for what makes their agreement say nothing; here: at nothing."""

    def see(self, name: str, output: Tensor) -> None:
        """Add a batch of the output ``name``."""

    @property
    def warning(self) -> str:
        """In words; empty where there is nothing."""
        return ""


class Witnesses:
    """The witnesses of every task that judges an output."""

    def __init__(self) -> None:
        self.by_task: dict[str, Witness] = {}

    def see(self, judges: Mapping[str, Task | None], outputs: Mapping[str, Tensor]) -> None:
        """Add a batch of outputs, each seen by the witness of the task that judges it."""
        for name, output in outputs.items():
            task = judges.get(name)
            if task is not None:
                self.by_task.setdefault(task.name, task.witness()).see(name, output)

    @property
    def warning(self) -> str:
        """In words; empty where there is nothing."""
        return "; ".join(witness.warning for witness in self.by_task.values() if witness.warning)


def _tensors(output: Any) -> list[Tensor]:
    if isinstance(output, Tensor):
        return [output]
    values = output.values() if isinstance(output, Mapping) else output
    return [tensor for value in values for tensor in _tensors(value)]


def as_picture(pixels: Tensor) -> Picture:
    """Pixels ``[C, H, W]`` (uint8) as ``[H, W, 3]``: one channel in gray, two as their mean, else the first three.

    Further channels, such as alpha or infrared, are not shown.
    """
    if len(pixels) == 2:
        pixels = pixels.float().mean(0, keepdim=True).round().to(torch.uint8)
    picture: Picture = pixels[:3].expand(3, *pixels.shape[-2:]).permute(1, 2, 0).numpy()
    return picture
