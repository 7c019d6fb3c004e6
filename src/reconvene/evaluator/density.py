"""Evaluator `density`: how mild a density already makes the criterion cut the group this far.

``loss(k) = -log(delta)`` nats, where ``delta`` is the mildest global density at which the widths solved jointly from
the densities of all layers (``widths_from_density``) leave the group ``k`` channels. One water level ``tau`` for all
groups is therefore exactly the widths the criterion implies at density ``exp(-tau)``.
"""

from __future__ import annotations

import numpy as np

from reconvene.evaluator.curves import isotonic
from reconvene.evaluator.evidence import Evidence
from reconvene.utils.arrays import Floats

# d(-log r) / d(nats) past the last level: a group no density has touched so far is charged 1 / 0.05 = 20 nats per
# e-fold.
SLOWEST = 0.05
# The last slope is taken over this share of the range of nats, so that one noisy level does not decide it.
TAIL = 0.25
# A group within this part of a channel of ``k`` has reached ``k``: least squares is not exact to the last digit.
NEAR = 0.02


def density_losses(evidence: Evidence) -> list[Floats]:
    """Loss in nats for every group and every kept width."""
    levels = evidence.levels
    return [invert(levels.nats, -levels.log_share[:, g], group.width) for g, group in enumerate(evidence.groups)]


def invert(nats: Floats, depth: Floats, width: int) -> Floats:
    """From ``depth[j] = -log r`` at ``nats[j]`` to ``loss[k]``: the first nats at which ``width * r <= k + NEAR``.

    Linear between levels; past the last level along the slope of the last quarter of the range, at least ``SLOWEST``.
    """
    rising = np.maximum(isotonic(depth), 0.0)
    rising[0] = 0.0
    target_depth = np.log(width / (np.arange(width + 1) + NEAR))
    target_depth[width] = 0.0
    after = np.minimum(np.searchsorted(rising, target_depth, side="left"), len(rising) - 1)
    before = np.maximum(after - 1, 0)
    rise = rising[after] - rising[before]
    part = np.divide(target_depth - rising[before], rise, out=np.zeros_like(target_depth), where=rise > 0)
    inside = nats[before] + part * (nats[after] - nats[before])
    beyond = nats[-1] + (target_depth - rising[-1]) / _last_slope(nats, rising)
    loss = np.where(target_depth > rising[-1], beyond, inside)
    loss[width] = 0.0
    return np.asarray(loss, dtype=np.float64)


def _last_slope(nats: Floats, depth: Floats) -> float:
    start = int(np.searchsorted(nats, nats[-1] * (1 - TAIL), side="right")) - 1
    start = max(min(start, len(nats) - 2), 0)
    run = float(nats[-1] - nats[start])
    slope = float(depth[-1] - depth[start]) / run if run > 0 else 0.0
    return max(slope, SLOWEST)
