"""Detections of a file in PyTorch's order: rounding swaps boxes of nearly equal scores, and that is no other result."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

TIE_OF_SCORES = 1e-3
"""Share of the largest score up to which a later box may have the higher one."""


def in_same_order(expected: Mapping[str, Tensor], outputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """``outputs`` with the rows of every set of detections in the order that ``expected`` has them.

    A set of detections is what torchvision's detectors return for an image: ``boxes`` [N, 4], ``scores`` [N] and
    whatever else has N rows beside them, by falling score. Both maps hold the same outputs in the same order; a set of
    another size, or one that is not in the order of its scores, stays as it is.
    """
    own_names = dict(zip(expected, outputs, strict=True))
    ordered = dict(outputs)
    for members in _sets(expected):
        theirs = {part: expected[name] for part, name in members.items()}
        ours = {part: outputs[own_names[name]] for part, name in members.items()}
        order = _order(theirs, ours)
        if order is not None:
            ordered |= {own_names[members[part]]: rows[order] for part, rows in ours.items()}
    return ordered


def _sets(outputs: Mapping[str, Tensor]) -> list[dict[str, str]]:
    """Names of outputs by what they are to a detection, one map for every image."""
    sets: dict[str, dict[str, str]] = {}
    for name in outputs:
        image, _, part = name.rpartition(".")
        sets.setdefault(image, {})[part] = name
    return [members for members in sets.values() if {"boxes", "scores"} <= members.keys()]


def _order(theirs: Mapping[str, Tensor], ours: Mapping[str, Tensor]) -> Tensor | None:
    """Which of our rows is each of theirs: the nearest first. None where the sets cannot be compared row by row."""
    count = len(theirs["scores"])
    if count < 2 or any(ours[part].shape != rows.shape or len(rows) != count for part, rows in theirs.items()):
        return None
    if not (_falling(theirs["scores"]) and _falling(ours["scores"])):
        return None
    distances = _distances(theirs, ours)
    order = np.full(count, -1)
    matched = np.zeros(count, dtype=bool)
    for position in np.argsort(distances, axis=None, kind="stable"):
        row, candidate = divmod(int(position), count)
        if order[row] < 0 and not matched[candidate]:
            order[row], matched[candidate] = candidate, True
    return torch.from_numpy(order)


def _falling(scores: Tensor) -> bool:
    steps = scores.double().diff()
    return bool((steps <= TIE_OF_SCORES * float(scores.abs().max())).all())


def _distances(theirs: Mapping[str, Tensor], ours: Mapping[str, Tensor]) -> np.ndarray:
    """Between every one of their rows and every one of ours: the largest difference of scores, boxes and labels."""
    largest = np.zeros((len(theirs["scores"]),) * 2)
    for part in {"scores", "boxes", "labels"} & theirs.keys():
        a, b = (rows[part].double().reshape(len(rows[part]), -1) for rows in (theirs, ours))
        scale = float(a.abs().max()) or 1.0
        largest = np.maximum(largest, torch.cdist(a, b, p=torch.inf).numpy() / scale)
    return largest
