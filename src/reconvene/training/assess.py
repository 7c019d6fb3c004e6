"""Beyond accuracy: whom a network agrees with, what it withstands, and what else its task says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from reconvene.costs.synops import Synops, count_synops
from reconvene.data import Dataset, test_batches
from reconvene.data.corruptions import CORRUPTIONS, STRENGTHS, corrupted
from reconvene.errors import TrainingError
from reconvene.structure.fresh import call_afresh
from reconvene.structure.neurons import neurons
from reconvene.tasks import Assessment
from reconvene.training.evaluate import check_output, outputs_in_float32
from reconvene.utils.module_state import evaluating
from reconvene.utils.module_tree import device_of
from reconvene.utils.progress import track
from reconvene.utils.tables import Cell, text_table

_Predictions = tuple[Tensor, ...]


def predict(model: nn.Module, dataset: Dataset, *, batch_size: int = 256) -> _Predictions:
    """What the task keeps of the outputs for the test images, float32, eval mode, on the CPU.

    Raises:
        TrainingError: no test images, or outputs that the task cannot read.
    """
    if not len(dataset.test):
        raise TrainingError(f"{dataset.name} has no test images to evaluate on.")
    device = device_of(model)
    parts: list[_Predictions] = []
    with evaluating(model), torch.no_grad():
        for x, y in test_batches(dataset, batch_size=batch_size, device=device):
            output = check_output(call_afresh(model, x), y, dataset)
            parts.append(dataset.task.predict(outputs_in_float32(output)))
    return tuple(torch.cat(tensors) for tensors in zip(*parts, strict=True))


def assess(
    model: nn.Module,
    dataset: Dataset,
    *,
    dense: _Predictions | None = None,
    corruptions: bool = False,
    seed: int = 0,
) -> Assessment:
    """Assess ``model`` on the test images of ``dataset``.

    Args:
        model: a trained network; it is only read.
        dataset: what it was trained on.
        dense: the predictions of the network it is compared with.
        corruptions: whether to corrupt the test images too, which takes twelve more rounds over them.
        seed: of the corruptions' noise.

    Raises:
        TrainingError: as ``predict`` does.
        MissingExtraError: JPEG corruption without pillow.
    """
    assessment = dataset.task.assess(predict(model, dataset), dataset.test.targets, dataset.classes, dense=dense)
    if not corruptions:
        return assessment
    spoiled = _spoiled(model, dataset, seed=seed)
    every = [value for values in spoiled.values() for value in values]
    changes: dict[str, Any] = {"corruptions": spoiled, "corrupted": sum(every) / len(every)}
    return replace(assessment, **changes)  # type: ignore[type-var]  # every kind is a dataclass


def test_synops(model: nn.Module, dataset: Dataset) -> Synops | None:
    """Synaptic operations on 100 test images spread over the split; None of a network without spiking neurons."""
    if not neurons(model):
        return None
    places = torch.linspace(0, len(dataset.test) - 1, min(100, len(dataset.test))).long()
    images = dataset.normalise(dataset.test.images[places])
    return count_synops(model, [images], images[:2])


def compare_text(assessments: Mapping[str, Assessment]) -> str:
    """A table with one column a network, and a warning below it for one that is hardly trained."""
    of = list(assessments.values())
    texts = [assessment.rows() for assessment in of]
    headings = dict.fromkeys(heading for text in texts for heading in text)
    rows: list[list[Cell]] = [[heading, *(text.get(heading) or "-" for text in texts)] for heading in headings]
    for name in CORRUPTIONS:
        for level, strength in enumerate(STRENGTHS):
            values = [a.corruptions[name][level] if a.corruptions else None for a in of]
            if any(value is not None for value in values):
                rows.append([f"{name}, strength {strength}", *(_percent(value) for value in values)])
    foot = []
    if any("-" in row[1:] for row in rows):
        beside = "the dense network is what others are compared with"
        alone = "no trained dense network lies beside it to compare with: reconvene run, or train DIR/dense"
        foot.append(f"-: {beside if 'dense' in assessments else alone}")
    foot += [f"warning: {name}: {a.warning}" for name, a in assessments.items() if a.warning is not None]
    return text_table(["", *assessments], rows, right=range(1, len(assessments) + 1), foot=foot)


def _spoiled(model: nn.Module, dataset: Dataset, *, seed: int) -> dict[str, list[float]]:
    scores: dict[str, list[float]] = {}
    total = len(CORRUPTIONS) * len(STRENGTHS)
    for name, _, spoiled in track(corrupted(dataset, seed=seed), "corruptions", total=total):
        assessment = dataset.task.assess(predict(model, spoiled), spoiled.test.targets, dataset.classes)
        scores.setdefault(name, []).append(assessment.score)
    return scores


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.1%}"
