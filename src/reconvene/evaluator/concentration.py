"""Evaluator `concentration`: how much of the group's kept saliency its best channels fail to hold.

``loss(k) = 1 - (saliency of the best k channels) / (saliency of all)``, a share of 1, counting only weights the
criterion keeps at the target density. A group whose saliency sits in few channels loses little when the others go.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from reconvene.evaluator.channels import channel_scores
from reconvene.evaluator.evidence import Evidence
from reconvene.utils.arrays import Floats


def concentration_losses(evidence: Evidence) -> list[Floats]:
    """Share of the kept saliency lost, for every group and every kept width.

    A group of which the criterion keeps nothing at this density has no concentration: its saliency counts as evenly
    spread.
    """
    saliency, levels = evidence.scored, evidence.levels
    nats = -np.log(evidence.target)
    touched = {name for group in evidence.groups for name in group.parameters}
    shares = {
        name: _kept(score, float(np.interp(nats, levels.nats, saliency.densities[name])))
        for name, score in saliency.scores.items()
        if name in touched
    }
    return [lost_share(score) for score in channel_scores(evidence.groups, shares)]


def lost_share(score: Floats) -> Floats:
    """``loss[k] = 1 - top-k share`` of nonnegative channel scores ``[width]``; even when they are all zero."""
    uniform = np.ones_like(score)
    best = np.sort(score if score.sum() > 0 else uniform)[::-1]
    cumulative = np.concatenate([[0.0], np.cumsum(best)])
    return np.asarray(1.0 - cumulative / cumulative[-1], dtype=np.float64)


def _kept(score: Tensor, density: float) -> Tensor:
    """Scores of the share ``density`` of best weights, zero elsewhere; scores below zero (GraSP) hold no saliency."""
    count = round(density * score.numel())
    positive = score.clamp(min=0)
    if count >= score.numel():
        return positive
    if count == 0:
        return torch.zeros_like(score)
    edge = torch.kthvalue(score.flatten(), score.numel() - count + 1).values
    return torch.where(score >= edge, positive, torch.zeros_like(score))
