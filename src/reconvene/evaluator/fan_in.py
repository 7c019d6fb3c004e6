"""Evaluator `fan_in`: how much noisier signal and gradient become when layers add up fewer of them.

A random layer of ``n`` inputs passes signal and gradient on with a relative error whose square is about ``1 / n``, and
through a network these add up: fluctuations at initialization are governed by the sum of reciprocal widths over all
layers (Hanin and Rolnick, arXiv 1803.01719; Hanin and Nica, arXiv 1812.05994), which even widths make smallest for
the parameters they cost. For a group,

    loss(k) ** 2 = 1/2 * sum over the sides of weights it touches of (1 / (n - m * (width - k)) - 1 / n)

where ``n`` is the size of that side and ``m`` how often it holds each channel. The half makes a group between two
layers count once; the stream of a residual stage counts for all the layers that read it or add to it. Squares of losses
add up, so the best widths are those of the least sum of squares, not those of one water level.

It reads shapes and no scores. A criterion that is asked for beside it chooses which channels stay, not how many:
measured by training, these widths do better than those that the criteria imply (docs/evidence.md).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from reconvene.evaluator.evidence import Evidence
from reconvene.structure.groups import Group
from reconvene.utils.arrays import Floats

_SIDES = (0, 1)


def fan_in_losses(evidence: Evidence) -> list[Floats]:
    """Root of the sum of reciprocal sizes, for every group and every kept width."""
    return [_loss(group, evidence.shapes, evidence.summing) for group in evidence.groups]


def _loss(group: Group, shapes: Mapping[str, tuple[int, ...]], summing: frozenset[str]) -> Floats:
    widths = np.arange(1, group.width + 1, dtype=np.float64)
    total = np.zeros(group.width)
    for slot in group.slots:
        shape = shapes.get(slot.parameter, ())
        if len(shape) < 2 or slot.dim not in _SIDES:
            continue
        # One input or one output a channel adds nothing up, but in the first layer of grey images and in a head of one.
        if 1 in shape[:2] and slot.parameter not in summing:
            continue
        size, times = shape[slot.dim], slot.index.shape[1]
        total += 0.5 * (1.0 / (size - times * (group.width - widths)) - 1.0 / size)
    if not total.any():  # between depthwise layers only: what it passes on is still as many channels
        total = 1.0 / widths - 1.0 / group.width
    loss: Floats = np.sqrt(np.concatenate([[total[0]], np.maximum(total, 0.0)]))
    return loss
