"""How good a model is on a split: accuracy, loss, and every class by itself."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reconvene.data import Dataset, test_batches
from reconvene.data.progress import track
from reconvene.errors import TrainingError
from reconvene.training.parallel import World
from reconvene.utils.module_state import evaluating


@dataclass(frozen=True)
class Evaluation:
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
    def warning(self) -> str | None:
        """What speaks against calling the model trained, in words; None where nothing does."""
        return None if self.predicted is None else warning(self.accuracy, self.predicted, self.chance, self.count)

    def __str__(self) -> str:
        text = f"accuracy {self.accuracy:.2%}, loss {self.loss:.4f} on {self.count} images"
        if not self.per_class:
            return text
        worst = min(self.per_class, key=self.per_class.__getitem__)
        return f"{text}, worst class {worst} {self.per_class[worst]:.1%}"


def evaluate(
    model: nn.Module,
    dataset: Dataset,
    *,
    split: Literal["train", "test"] = "test",
    batch_size: int = 256,
    world: World | None = None,
    progress: bool = False,
) -> Evaluation:
    """Accuracy, loss and per-class accuracy on one split, on the model's device. The model's modes are restored.

    ``world``: this process does its part and gets the result of all; by default it is alone.

    Raises:
        TrainingError: an empty split, or a model that does not give ``[B, classes]`` for this dataset.
    """
    part = dataset.train if split == "train" else dataset.test
    if not len(part):
        raise TrainingError(f"{dataset.name} has no {split} images to evaluate on.")
    world = World() if world is None else world
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    # per class: images, right answers, summed loss, how often it is the answer
    sums = torch.zeros(4, len(dataset.classes), dtype=torch.float64, device=device)
    steps = -(-len(part) // (batch_size * world.size))
    batches = test_batches(dataset, split=part, batch_size=batch_size, shard=world.shard, device=device)
    with evaluating(model), torch.no_grad():
        for x, y in track(batches, f"evaluating on {dataset.name}", total=steps, enabled=progress):
            output = check_output(model(x), y, dataset)
            losses = F.cross_entropy(output.float(), y, reduction="none").double()
            answers = output.argmax(1)
            right = (answers == y).double()
            sums[:3].index_add_(1, y, torch.stack([torch.ones_like(losses), right, losses]))
            sums[3].index_add_(0, answers, torch.ones_like(losses))
    counts, right, losses, answered = world.total(sums).cpu()
    per_class = {name: float(right[c] / counts[c]) for c, name in enumerate(dataset.classes) if counts[c] > 0}
    total = float(counts.sum())
    return Evaluation(
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


def check_output(output: object, labels: Tensor, dataset: Dataset, *, role: str = "the model") -> Tensor:
    """The model's answer to a batch, if it is one score for each class of the dataset.

    Raises:
        TrainingError: it is not; the message says what came and what to change.
    """
    if not isinstance(output, Tensor):
        raise TrainingError(f"{role} returns {type(output).__name__}; training needs one tensor [batch, classes].")
    if output.ndim != 2 or output.shape[0] != labels.shape[0]:
        raise TrainingError(
            f"{role} returns a tensor {list(output.shape)} for {labels.shape[0]} images; "
            f"classification needs [{labels.shape[0]}, {len(dataset.classes)}]."
        )
    if output.shape[1] != len(dataset.classes):
        raise TrainingError(
            f"{role} has {output.shape[1]} outputs but {dataset.name} has {len(dataset.classes)} classes. "
            f"Try: build the model with num_classes={len(dataset.classes)}."
        )
    return output
