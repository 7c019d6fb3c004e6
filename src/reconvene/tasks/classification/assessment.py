"""Beyond accuracy: how honest a network's confidence is, which class pays, and how often it answers as another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from reconvene.tasks.classification.evaluation import warning
from reconvene.tasks.measures import Assessment

BINS = 15


class Predictions(NamedTuple):
    """What a network says of every image: its class, int64 ``[N]``, and how sure it is, float32 ``[N]``."""

    classes: Tensor
    confidence: Tensor


@dataclass(frozen=True)
class ClassAssessment(Assessment):
    """One network on the test images; all numbers but the count are shares in [0, 1].

    - ``calibration_error``: expected calibration error (1706.04599) over 15 equal bins of confidence.
    - ``worst_class``: the class it gets right least often, with ``worst_accuracy``.
    - Only beside a dense network: ``worst_drop``, the most that any class lost against it, with ``dropped_class``.
    - ``predicted``: how many distinct classes it answers with.
    """

    note = (
        "Calibration error is how far confidence and accuracy lie apart, the mean over fifteen bins of confidence; "
        "lower is better."
    )
    accuracy: float
    calibration_error: float
    worst_class: str
    worst_accuracy: float
    count: int
    agreement: float | None = None
    dropped_class: str | None = None
    worst_drop: float | None = None
    corruptions: dict[str, list[float]] | None = None
    corrupted: float | None = None
    predicted: int | None = None
    warning: str | None = None

    @property
    def score(self) -> float:
        """The headline."""
        return self.accuracy

    def rows(self) -> dict[str, str]:
        """What a table says, by the heading of the line."""
        drop = "" if self.worst_drop is None else f"{self.worst_drop:.1%} {self.dropped_class}"
        return {
            "accuracy": f"{self.accuracy:.1%}",
            "calibration error": f"{self.calibration_error:.1%}",
            "agreement with dense": "" if self.agreement is None else f"{self.agreement:.1%}",
            "worst class": f"{self.worst_accuracy:.1%} {self.worst_class}",
            "largest drop of a class": drop,
        }


def assess_answers(
    answers: Predictions, labels: Tensor, classes: Sequence[str], *, dense: Predictions | None = None
) -> ClassAssessment:
    """Judge the answers for images of these ``labels`` ``[N]``, where given beside those of a dense network."""
    right = answers.classes == labels
    per_class = _per_class(right, labels, classes)
    worst = min(per_class, key=per_class.__getitem__)
    agreement = dropped = drop = None
    if dense is not None:
        agreement = float((answers.classes == dense.classes).double().mean())
        before = _per_class(dense.classes == labels, labels, classes)
        dropped = max(per_class, key=lambda name: before[name] - per_class[name])
        drop = before[dropped] - per_class[dropped]
    accuracy, predicted = float(right.double().mean()), int((answers.classes.bincount() > 0).sum())
    chance = float(labels.bincount().max()) / len(labels)
    return ClassAssessment(
        accuracy=accuracy,
        calibration_error=calibration_error(answers.confidence, right),
        worst_class=worst,
        worst_accuracy=per_class[worst],
        count=len(labels),
        agreement=agreement,
        dropped_class=dropped,
        worst_drop=drop,
        predicted=predicted,
        warning=warning(accuracy, predicted, chance, len(labels)),
    )


def calibration_error(confidence: Tensor, right: Tensor) -> float:
    """``sum_b n_b / n * |accuracy_b - confidence_b|`` over bins ``(i / 15, (i + 1) / 15]`` of confidence ``[N]``."""
    bins = (confidence.double() * BINS).ceil().clamp(1, BINS).long() - 1
    gaps = torch.zeros(BINS, dtype=torch.float64)
    gaps.index_add_(0, bins, right.double() - confidence.double())
    return float(gaps.abs().sum() / len(confidence))


def _per_class(right: Tensor, labels: Tensor, classes: Sequence[str]) -> dict[str, float]:
    return {
        name: float(right[labels == c].double().mean()) for c, name in enumerate(classes) if bool((labels == c).any())
    }
