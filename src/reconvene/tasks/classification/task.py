"""The task of naming the class of an image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from reconvene.errors import TrainingError
from reconvene.tasks.base import Augmentation, Targets, Task
from reconvene.tasks.classification.assessment import ClassAssessment, Predictions, assess_answers
from reconvene.tasks.classification.evaluation import ClassEvaluation, ClassMeter
from reconvene.tasks.scores import ClassWitness, are_labels, same_class, soft_loss


class Classification(Task):
    """One class an image: scores ``[B, classes]``, labels int64 ``[B]``, cross entropy, accuracy."""

    name, headline, targets = "classification", "accuracy", Targets.LABELS
    is_share, part, pipeline = True, "class", "image-classification"
    notable_loss = 0.1  # nats

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """Mean cross entropy in nats."""
        return F.cross_entropy(output, target)

    def metrics(self, output: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Accuracy."""
        return {"accuracy": (output.argmax(1) == target).float()}

    def agreement(self, reference: Tensor, output: Tensor, *, tie: float | None = None) -> Tensor | None:
        """Where the most likely class is the same, for any output with more than one score."""
        return same_class(reference, output, tie)

    def training_loss(self, output: Tensor, target: Tensor, *, label_smoothing: float) -> Tensor:
        """Cross entropy with a share ``label_smoothing`` of every target spread evenly over all classes."""
        return F.cross_entropy(output, target, label_smoothing=label_smoothing)

    def losses(self, output: Tensor, target: Tensor) -> Tensor:
        """The cross entropy of every image."""
        return F.cross_entropy(output, target, reduction="none")

    def soft_loss(self, output: Tensor, teacher: Tensor, temperature: float) -> Tensor:
        """``T^2 KL(teacher || student)`` of the softened scores (1503.02531)."""
        return soft_loss(output, teacher, temperature)

    def correct(self, output: Tensor, target: Tensor) -> Tensor:
        """Right answers in a batch."""
        return (output.argmax(1) == target).sum()

    def quality(self, output: Tensor, target: Tensor) -> float | None:
        """Accuracy, of an output that the labels are of."""
        return float((output.argmax(1) == target).double().mean()) if are_labels(output, target) else None

    def recognises(self, output: Tensor, target: Tensor | None) -> bool:
        """Targets are labels of the output, one a sample or one a pixel."""
        return are_labels(output, target)

    def witness(self) -> ClassWitness:
        """Warns where a network answers one class for every sample."""
        return ClassWitness()

    def outputs(self, classes: Sequence[str], target: Tensor) -> int:
        """A score a class."""
        return len(classes)

    def check(self, output: Any, target: Tensor, *, classes: Sequence[str], data: str, role: str = "the model") -> Any:
        """``output``, if it is one score for each class."""
        if not isinstance(output, Tensor):
            raise TrainingError(f"{role} returns {type(output).__name__}; training needs one tensor [batch, classes].")
        if output.ndim != 2 or output.shape[0] != target.shape[0]:
            raise TrainingError(
                f"{role} returns a tensor {list(output.shape)} for {target.shape[0]} images; "
                f"classification needs [{target.shape[0]}, {len(classes)}]. Try: --task segmentation (or instances, "
                "regression, image-to-image) where outputs are not scores of classes."
            )
        if output.shape[1] != len(classes):
            raise TrainingError(
                f"{role} has {output.shape[1]} outputs but {data} has {len(classes)} classes. "
                f"Try: build the model with num_classes={len(classes)} (--model-arg num_classes={len(classes)}), or "
                "name other data (--data)."
            )
        return output

    def describe(self, classes: Sequence[str]) -> str:
        """How many classes."""
        return f"{len(classes)} classes"

    def identity(self) -> dict[str, Any]:
        """Nothing: runs of versions that knew no other task do not say theirs."""
        return {}

    def augmentation(self, classes: Sequence[str], shape: tuple[int, int, int]) -> Augmentation:
        """Shift by an eighth; flip only where class names are words, not numbers or letters, which may be read."""
        flip = all(len(name) > 1 and not name.isdecimal() for name in classes)
        return Augmentation(pad=max(1, min(shape[1:]) // 8), flip=flip)

    def meter(self, classes: Sequence[str], device: torch.device) -> ClassMeter:
        """Sums by class."""
        return ClassMeter(classes, device)

    def evaluation(self, values: Mapping[str, Any]) -> ClassEvaluation:
        """Undo ``Evaluation.to_dict``."""
        return ClassEvaluation(**values)

    def predict(self, output: Tensor) -> Predictions:
        """Class and softmax confidence."""
        best = output.float().softmax(1).max(1)
        return Predictions(best.indices.cpu(), best.values.cpu())

    def assess(
        self,
        predictions: tuple[Tensor, ...],
        target: Tensor,
        classes: Sequence[str],
        *,
        dense: tuple[Tensor, ...] | None = None,
    ) -> ClassAssessment:
        """Calibration, the worst class, and agreement with a dense network."""
        return assess_answers(
            Predictions(*predictions), target, classes, dense=None if dense is None else Predictions(*dense)
        )

    def read_assessment(self, values: Mapping[str, Any]) -> ClassAssessment:
        """Undo ``Assessment.to_dict``."""
        return ClassAssessment(**values)
