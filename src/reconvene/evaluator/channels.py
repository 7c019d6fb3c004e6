"""Saliency of channels: every weight that touches a channel, producers and consumers alike, counts towards it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import torch
from torch import Tensor

from reconvene.structure.groups import Group
from reconvene.utils.arrays import Floats


def channel_scores(groups: Iterable[Group], scores: Mapping[str, Tensor]) -> list[Floats]:
    """Score of every channel of each group, ``[width]`` each: the sum of ``scores`` over all slots.

    Parameters without scores (biases, norms) do not count. Each parameter is summed once per dimension, in float64,
    however many groups touch it.
    """
    matrices: dict[str, Tensor] = {}
    profiles: dict[tuple[str, int], Floats] = {}

    def profile(name: str, dim: int) -> Floats:
        if (name, dim) not in profiles:
            score = scores[name]
            if score.ndim > 2 and dim < 2:
                # Kernel positions go first: both sides of a convolution are then sums of one small matrix.
                if name not in matrices:
                    matrices[name] = score.flatten(2).sum(dim=2, dtype=torch.float64)
                score = matrices[name]
            summed_dims = tuple(d for d in range(score.ndim) if d != dim)
            summed = score.sum(dim=summed_dims, dtype=torch.float64) if summed_dims else score.to(torch.float64)
            profiles[name, dim] = summed.cpu().numpy()
        return profiles[name, dim]

    results = []
    for group in groups:
        total = np.zeros(group.width)
        for slot in group.slots:
            if slot.parameter in scores:
                total += profile(slot.parameter, slot.dim)[slot.index].sum(axis=1)
        results.append(total)
    return results
