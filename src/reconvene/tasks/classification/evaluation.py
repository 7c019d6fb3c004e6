"""Accuracy and loss of a split, and every class by itself."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from reconvene.tasks.measures import Evaluation, Meter


@dataclass(frozen=True)
class ClassEvaluation(Evaluation):
    """``accuracy`` in [0, 1] and mean cross entropy ``loss`` (nats) over ``count`` images, in float32 and eval mode.

    ``per_class`` is the accuracy on each class that the split holds; ``predicted`` counts the distinct classes that the
    model answers with; ``chance`` is the accuracy of always answering the most frequent class.
    """

    accuracy: float
    loss: float
    count: int
    per_class: dict[str, float]
    predicted: int | None = None
    chance: float | None = None

    @property
    def metrics(self) -> dict[str, float]:
        """Every metric by name, the headline first."""
        return {"accuracy": self.accuracy}

    @property
    def parts(self) -> dict[str, float]:
        """The headline by part of the data: by class."""
        return self.per_class

    @property
    def warning(self) -> str | None:
        """What speaks against calling the model trained, in words; None where nothing does."""
        return None if self.predicted is None else warning(self.accuracy, self.predicted, self.chance, self.count)

    def __str__(self) -> str:
        text = f"accuracy {self.accuracy:.2%}, loss {self.loss:.4f} on {self.count} images"
        if not self.per_class:
            return text
        worst = min(self.per_class, key=self.per_class.__getitem__)
        return f"{text}, worst class {worst} {self.per_class[worst]:.1%}"


class ClassMeter(Meter):
    """Per class: images, right answers, summed loss, how often it is the answer."""

    def __init__(self, classes: Sequence[str], device: torch.device) -> None:
        self.classes = classes
        self.totals = torch.zeros(4, len(classes), dtype=torch.float64, device=device)

    def add(self, output: Tensor, target: Tensor) -> None:
        """Add a batch."""
        losses = F.cross_entropy(output.float(), target, reduction="none").double()
        answers = output.argmax(1)
        right = (answers == target).double()
        self.totals[:3].index_add_(1, target, torch.stack([torch.ones_like(losses), right, losses]))
        self.totals[3].index_add_(0, answers, torch.ones_like(losses))

    def evaluation(self, totals: Tensor) -> ClassEvaluation:
        """What the sums over all batches of all processes say."""
        counts, right, losses, answered = totals.cpu()
        per_class = {name: float(right[c] / counts[c]) for c, name in enumerate(self.classes) if counts[c] > 0}
        total = float(counts.sum())
        return ClassEvaluation(
            float(right.sum()) / total,
            float(losses.sum()) / total,
            int(total),
            per_class,
            predicted=int((answered > 0).sum()),
            chance=float(counts.max()) / total,
        )


def warning(accuracy: float, predicted: int, chance: float | None, count: int) -> str | None:
    """A line that warns of a model that answers one class for every image, or is no better than chance.

    ``chance`` is the share of the most frequent class among ``count`` images; better means by two standard deviations
    of the accuracy that always answering it would have. Nothing is wrong where the images are all of one class.
    """
    if chance is None or chance >= 1:
        return None
    distinct = f"{predicted} distinct {'class' if predicted == 1 else 'classes'} predicted for {count} images"
    if predicted == 1:
        return f"the network answers one class whatever it sees ({distinct}, accuracy {accuracy:.2%})"
    if accuracy <= chance + 2 * math.sqrt(chance * (1 - chance) / count):
        return f"accuracy {accuracy:.2%} is at chance (the most frequent class: {chance:.2%}; {distinct})"
    return None
