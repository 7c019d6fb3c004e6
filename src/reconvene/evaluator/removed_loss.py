"""Evaluator `removed_loss`: what the criterion says that the channels which leave are worth, added up.

``loss(k) ** 2 = sum of the scores of the channels that leave``, in the criterion's order of leaving, so the solver,
which minimises the sum of squared losses, minimises the estimated loss of the whole network at whatever budget. Scores
that estimate a loss (`taylor`, `obd`) are taken as they are. Others have a unit of their own in every group: they are
divided by the group's mean score, so that every group has the same worth a channel.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from reconvene.errors import CriterionError
from reconvene.evaluator.curves import Floats
from reconvene.evaluator.evidence import Evidence


def removed_losses(evidence: Evidence) -> list[Floats]:
    """Root of the worth of what left, for every group and every kept width.

    Raises ``CriterionError`` without a criterion.
    """
    if evidence.channel_ranks is None:
        raise CriterionError("evaluator 'removed_loss' reads a criterion's scores, and no criterion was asked for")
    comparable = evidence.channel_saliency is not None and evidence.channel_saliency.adds_up
    return [
        _loss(scores if comparable else _relative(scores), leaving)
        for scores, leaving in zip(evidence.channel_scores, evidence.leaving, strict=True)
    ]


def _loss(scores: Floats, leaving: NDArray[np.int64]) -> Floats:
    removed = np.concatenate([[0.0], np.cumsum(np.maximum(scores[leaving], 0.0))])
    return np.asarray(np.sqrt(removed[::-1]), dtype=np.float64)


def _relative(scores: Floats) -> Floats:
    """Scores as shares of the mean of the group; all one where all are zero (or, of signed scores, not above)."""
    positive = np.maximum(scores, 0.0)
    mean = positive.mean()
    return positive / mean if mean > 0 else np.ones_like(scores)
