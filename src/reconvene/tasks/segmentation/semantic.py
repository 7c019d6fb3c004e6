"""The task of naming the class of every pixel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from reconvene.errors import TrainingError
from reconvene.tasks.base import Picture, Targets, Task
from reconvene.tasks.measures import MeanAssessment
from reconvene.tasks.scores import ClassWitness, are_labels, class_counts, one_class_doubt, same_class, soft_loss
from reconvene.tasks.segmentation.drawing import coloured


class Segmentation(Task):
    """One class a pixel: scores ``[B, classes, H, W]``, class maps int32 ``[B, H, W]`` in which class 0 is background.

    The loss is cross entropy plus one minus the soft Dice of the other classes; networks are compared by Dice.
    """

    name, headline, targets = "segmentation", "dice", Targets.MAPS
    instances = "instances"
    input_shape = (3, 128, 128)
    part, pipeline = "class", "image-segmentation"

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """Cross entropy in nats plus ``1 - Dice``."""
        return self.training_loss(output, target, label_smoothing=0.0)

    def training_loss(self, output: Tensor, target: Tensor, *, label_smoothing: float) -> Tensor:
        """The same, with label smoothing in the cross entropy."""
        target = target.long()
        return F.cross_entropy(output, target, label_smoothing=label_smoothing) + soft_dice_loss(output, target)

    def soft_loss(self, output: Tensor, teacher: Tensor, temperature: float) -> Tensor:
        """``T^2 KL(teacher || student)`` of the softened scores, the mean over pixels."""
        return soft_loss(output, teacher, temperature)

    def metrics(self, output: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Dice and IoU, the mean over the classes that either map of an image holds, and the share of right pixels."""
        return map_metrics(output.argmax(1), target, output.shape[1])

    def counts(self, output: Tensor, target: Tensor) -> Tensor:
        """How often each class is answered, and how often it is right."""
        return class_counts(output.argmax(1), target, output.shape[1])

    def doubt(self, metrics: Mapping[str, float], counts: Tensor) -> str | None:
        """Whether one class is answered for every pixel."""
        return one_class_doubt(counts)

    def agreement(self, reference: Tensor, output: Tensor, *, tie: float | None = None) -> Tensor | None:
        """Where the most likely class of a pixel is the same."""
        return same_class(reference, output, tie)

    def quality(self, output: Tensor, target: Tensor) -> float | None:
        """Dice, of an output that the maps are of."""
        return float(self.metrics(output, target)["dice"].double().mean()) if are_labels(output, target) else None

    def witness(self) -> ClassWitness:
        """Warns where a network answers one class for every pixel."""
        return ClassWitness()

    def outputs(self, classes: Sequence[str], target: Tensor) -> int:
        """A score a class."""
        return len(classes)

    def check(self, output: Any, target: Tensor, *, classes: Sequence[str], data: str, role: str = "the model") -> Any:
        """``output``, if it is one score for each class and pixel."""
        expected = [len(target), len(classes), *target.shape[1:]]
        if not isinstance(output, Tensor) or list(output.shape) != expected:
            shape = list(output.shape) if isinstance(output, Tensor) else type(output).__name__
            raise TrainingError(
                f"{role} returns {shape}, but {self.name} of {data} needs {expected}: a score for each class and "
                f"pixel. Try: build the model with num_classes={len(classes)}, as large as its input."
            )
        return output

    def predict(self, output: Tensor) -> tuple[Tensor, ...]:
        """The class of every pixel."""
        return (output.argmax(1).to(torch.int32).cpu(),)

    def assess(
        self,
        predictions: tuple[Tensor, ...],
        target: Tensor,
        classes: Sequence[str],
        *,
        dense: tuple[Tensor, ...] | None = None,
    ) -> MeanAssessment:
        """Means over images, the Dice of pixels pooled over all images, and how often pixels agree with dense ones."""
        (maps,) = predictions
        metrics = {name: float(v.double().mean()) for name, v in map_metrics(maps, target, len(classes)).items()}
        whole = map_metrics(maps.reshape(1, -1, 1), target.reshape(1, -1, 1), len(classes))
        agreement = None if dense is None else float((maps == dense[0]).double().mean())
        pooled = {"dice, pooled": float(whole["dice"]), "iou, pooled": float(whole["iou"])}
        return MeanAssessment(self.headline, metrics, len(target), agreement, details=pooled)

    def describe(self, classes: Sequence[str]) -> str:
        """How many classes."""
        return f"maps of {len(classes)} classes"

    def draw(self, values: Tensor, *, is_target: bool = False) -> Picture:
        """A colour for each class."""
        return coloured(values)


def map_metrics(predicted: Tensor, target: Tensor, classes: int) -> dict[str, Tensor]:
    """``dice``, ``iou`` and ``accuracy`` of class maps ``[B, H, W]``, one value an image ``[B]``.

    Dice and IoU are means over the classes but 0 that an image holds, in either map; 1 where it holds none.
    """
    sizes: list[Tensor] = []
    for c in range(1, classes):
        a, b = (predicted == c).flatten(1), (target == c).flatten(1)
        sizes.append(torch.stack([(a & b).sum(1), a.sum(1), b.sum(1)]))
    both, first, second = torch.stack(sizes, dim=1).double() if sizes else target.new_zeros(3, 1, len(target)).double()
    there = (first + second > 0).double()
    held = there.sum(0)

    def mean(above: Tensor, below: Tensor) -> Tensor:
        shares = torch.where(there > 0, above / below.clamp_min(1), 0.0).sum(0)
        return torch.where(held > 0, shares / held.clamp_min(1), 1.0)

    return {
        "dice": mean(2 * both, first + second),
        "iou": mean(both, first + second - both),
        "accuracy": (predicted == target).flatten(1).double().mean(1),
    }


def soft_dice_loss(scores: Tensor, target: Tensor) -> Tensor:
    """``1 - 2 sum p t / (sum p + sum t)`` of softmax ``p`` and one-hot targets ``t``, the mean of all classes but 0.

    Sums are over the batch, so that an image without an object does not weigh as much as one that is full of them.
    """
    shares = scores.softmax(1)[:, 1:]
    if not shares.shape[1]:  # there is nothing but background
        return scores.sum() * 0.0
    one_hot = torch.stack([target == c for c in range(1, scores.shape[1])], dim=1).to(shares.dtype)
    dims = (0, *range(2, shares.ndim))
    both, total = (shares * one_hot).sum(dims), (shares + one_hot).sum(dims)
    return (1 - (2 * both + 1) / (total + 1)).mean()
