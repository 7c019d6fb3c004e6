"""Evaluator `ablation`: how far the criterion's own objective falls when this group alone is cut.

``loss(k) = 1 - objective(only the best k channels of the group) / objective(whole network)``, a share of 1, measured
at a handful of widths and interpolated linearly after an isotonic pass. The objective is R for SynFlow, gradient
signal for others.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from reconvene.errors import CriterionError
from reconvene.evaluator.curves import isotonic
from reconvene.evaluator.evidence import Evidence
from reconvene.structure.groups import Group
from reconvene.utils.arrays import Floats
from reconvene.utils.progress import track

if TYPE_CHECKING:
    from reconvene.criteria.base import Objective

_SHARES = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 3 / 4)


def ablation_losses(evidence: Evidence) -> list[Floats]:
    """Relative fall of the objective for every group and every kept width.

    Raises ``CriterionError`` without an objective, or when the objective of the whole network is not a positive number.
    """
    objective = evidence.objective
    if objective is None:
        raise CriterionError(
            "evaluator 'ablation' needs objective=, the criterion's objective as a function of masks: "
            "reconvene.criteria.objective(model, example_inputs, criterion)"
        )
    dense_value = objective(None)
    if not math.isfinite(dense_value) or dense_value <= 0:
        raise CriterionError(
            f"the objective of criterion {evidence.scored.criterion!r} on the whole network is {dense_value}: "
            "'ablation' needs a positive finite number to compare with. Try evaluator='density'"
        )
    scores = evidence.scored.scores
    return [
        _curve(group, score, scores, objective, dense_value)
        for group, score in track(
            zip(evidence.groups, evidence.channel_scores, strict=True), "groups", total=len(evidence.groups)
        )
    ]


def _curve(
    group: Group, score: Floats, scores: Mapping[str, Tensor], objective: Objective, dense_value: float
) -> Floats:
    width = group.width
    probes = sorted({max(1, round(share * width)) for share in _SHARES} - {width})
    ranked = np.argsort(-score, kind="stable").astype(np.int64)
    falls = []
    for count in probes:
        left = objective(without(group, ranked[count:], scores))
        if not math.isfinite(left):
            raise CriterionError(f"the objective is {left} when {group.name!r} keeps {count} of {width} channels")
        falls.append(1.0 - left / dense_value)
    # Losing every channel loses everything, losing none nothing: both ends are known without asking.
    widths = np.array([0.0, *map(float, probes), float(width)])
    fall = np.clip(np.array([1.0, *falls, 0.0]), 0.0, 1.0)
    smooth = np.clip(isotonic(fall[::-1], weights=np.r_[1e6, np.ones(len(probes)), 1e6])[::-1], 0.0, 1.0)
    loss = np.interp(np.arange(width + 1, dtype=np.float64), widths, smooth)
    loss[width] = 0.0
    return np.asarray(loss, dtype=np.float64)


def without(group: Group, channels: NDArray[np.int64], scores: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Masks, one per scored weight the group touches: 0 wherever one of ``channels`` (indices) sits, 1 elsewhere."""
    masks: dict[str, Tensor] = {}
    for slot in group.slots:
        if slot.parameter in scores:
            mask = masks.setdefault(slot.parameter, torch.ones(scores[slot.parameter].shape))
            removed = torch.from_numpy(np.ascontiguousarray(slot.index[channels].reshape(-1)))
            mask.index_fill_(slot.dim, removed, 0.0)
    return masks
