"""Evaluator `reach`: the loss by density, once for every two weights that the group touches.

``loss(k) = density_loss(k) * weights / 2``. A group between two layers thins both of them, and its loss is that of
`density`. The stream of a residual stage thins every layer that reads it or adds to it, while a group inside one block
has a way around it; `density` solves one share for either and cannot tell them apart.
"""

from __future__ import annotations

from reconvene.evaluator.density import density_losses
from reconvene.evaluator.evidence import Evidence
from reconvene.utils.arrays import Floats

USUAL = 2


def reach_losses(evidence: Evidence) -> list[Floats]:
    """Loss in nats over layers for every group and every kept width."""
    scored = evidence.scored.scores
    reached = [sum(name in scored for name in group.parameters) for group in evidence.groups]
    return [loss * (max(n, 1) / USUAL) for loss, n in zip(density_losses(evidence), reached, strict=True)]
