"""Beyond accuracy: how honest a network's confidence is, which class pays, whom it agrees with, what it withstands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from reconvene.data import Dataset, test_batches
from reconvene.data.corruptions import CORRUPTIONS, STRENGTHS, corrupted
from reconvene.data.progress import track
from reconvene.errors import TrainingError
from reconvene.training.evaluate import check_output, warning
from reconvene.utils.module_state import evaluating
from reconvene.utils.tables import Cell, table

BINS = 15


@dataclass(frozen=True)
class Assessment:
    """One network on the test images; all numbers but the count are shares in [0, 1].

    - ``calibration_error``: expected calibration error (1706.04599) over 15 equal bins of confidence.
    - ``worst_class``: the class it gets right least often, with ``worst_accuracy``.
    - Only beside a dense network: ``agreement``, how often both say the same class, and ``worst_drop``, the most that
      any class lost against it, with ``dropped_class``.
    - ``predicted``: how many distinct classes it answers with; ``warning``: why it is hardly a trained network, if so.
    - Only if asked: ``corruptions``, the accuracy at strengths 1, 2 and 3 by corruption; ``corrupted`` is their mean.
    """

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

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return asdict(self)


@dataclass(frozen=True, eq=False)
class Answers:
    """What a network says of every test image: its class, int64 ``[N]``, and how sure it is, float32 ``[N]``."""

    classes: Tensor
    confidence: Tensor


def answers(model: nn.Module, dataset: Dataset, *, batch_size: int = 256) -> Answers:
    """Class and softmax confidence on the test images, float32, eval mode, on the model's device.

    Raises:
        TrainingError: no test images, or a model that does not give ``[B, classes]``.
    """
    if not len(dataset.test):
        raise TrainingError(f"{dataset.name} has no test images to evaluate on.")
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    classes, confidence = [], []
    with evaluating(model), torch.no_grad():
        for x, y in test_batches(dataset, batch_size=batch_size, device=device):
            best = check_output(model(x), y, dataset).float().softmax(1).max(1)
            classes.append(best.indices.cpu())
            confidence.append(best.values.cpu())
    return Answers(torch.cat(classes), torch.cat(confidence))


def assess(
    model: nn.Module,
    dataset: Dataset,
    *,
    dense: Answers | None = None,
    corruptions: bool = False,
    seed: int = 0,
    progress: bool = False,
) -> Assessment:
    """Assess ``model`` on the test images of ``dataset``.

    Args:
        model: a trained classifier; it is only read.
        dataset: what it was trained on.
        dense: the answers of the network it is compared with.
        corruptions: whether to corrupt the test images too, which takes twelve more rounds over them.
        seed: of the corruptions' noise.
        progress: show a bar.

    Raises:
        TrainingError: as ``answers`` does.
        MissingExtraError: JPEG corruption without pillow.
    """
    outputs = answers(model, dataset)
    labels = dataset.test.labels
    right = outputs.classes == labels
    per_class = _per_class(right, labels, dataset.classes)
    worst = min(per_class, key=per_class.__getitem__)
    agreement = dropped = drop = None
    if dense is not None:
        agreement = float((outputs.classes == dense.classes).double().mean())
        before = _per_class(dense.classes == labels, labels, dataset.classes)
        dropped = max(per_class, key=lambda name: before[name] - per_class[name])
        drop = before[dropped] - per_class[dropped]
    spoiled = _spoiled(model, dataset, seed=seed, progress=progress) if corruptions else None
    every = [value for values in (spoiled or {}).values() for value in values]
    accuracy, predicted = float(right.double().mean()), int((outputs.classes.bincount() > 0).sum())
    chance = float(labels.bincount().max()) / len(labels)
    return Assessment(
        accuracy=accuracy,
        calibration_error=calibration_error(outputs.confidence, right),
        worst_class=worst,
        worst_accuracy=per_class[worst],
        count=len(labels),
        agreement=agreement,
        dropped_class=dropped,
        worst_drop=drop,
        corruptions=spoiled,
        corrupted=sum(every) / len(every) if every else None,
        predicted=predicted,
        warning=warning(accuracy, predicted, chance, len(labels)),
    )


def calibration_error(confidence: Tensor, right: Tensor) -> float:
    """``sum_b n_b / n * |accuracy_b - confidence_b|`` over bins ``(i / 15, (i + 1) / 15]`` of confidence ``[N]``."""
    bins = (confidence.double() * BINS).ceil().clamp(1, BINS).long() - 1
    gaps = torch.zeros(BINS, dtype=torch.float64)
    gaps.index_add_(0, bins, right.double() - confidence.double())
    return float(gaps.abs().sum() / len(confidence))


def compare_text(assessments: Mapping[str, Assessment]) -> str:
    """A table with one column a network, and a warning below it for one that is hardly trained."""
    of = list(assessments.values())
    rows: list[list[Cell]] = [
        ["accuracy", *(_percent(a.accuracy) for a in of)],
        ["calibration error", *(_percent(a.calibration_error) for a in of)],
        ["agreement with dense", *(_percent(a.agreement) for a in of)],
    ]
    rows.append(["worst class", *(f"{a.worst_accuracy:.1%} {a.worst_class}" for a in of)])
    drops = [f"{a.worst_drop:.1%} {a.dropped_class}" if a.worst_drop is not None else "" for a in of]
    rows.append(["largest drop of a class", *drops])
    for name in CORRUPTIONS:
        for level, strength in enumerate(STRENGTHS):
            values = [a.corruptions[name][level] if a.corruptions else None for a in of]
            if any(value is not None for value in values):
                rows.append([f"{name}, strength {strength}", *(_percent(value) for value in values)])
    foot = [f"warning: {name}: {a.warning}" for name, a in assessments.items() if a.warning is not None]
    return table(["", *assessments], rows, right=range(1, len(assessments) + 1), foot=foot)


def _spoiled(model: nn.Module, dataset: Dataset, *, seed: int, progress: bool) -> dict[str, list[float]]:
    accuracies: dict[str, list[float]] = {}
    total = len(CORRUPTIONS) * len(STRENGTHS)
    for name, _, spoiled in track(corrupted(dataset, seed=seed), "corruptions", total=total, enabled=progress):
        said = answers(model, spoiled).classes
        accuracies.setdefault(name, []).append(float((said == dataset.test.labels).double().mean()))
    return accuracies


def _per_class(right: Tensor, labels: Tensor, classes: Sequence[str]) -> dict[str, float]:
    return {
        name: float(right[labels == c].double().mean()) for c, name in enumerate(classes) if bool((labels == c).any())
    }


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.1%}"
