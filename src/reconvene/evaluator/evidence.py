"""What every evaluator works from: the groups, their saliency, and the shares the criterion's densities imply."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from reconvene.errors import CriterionError
from reconvene.evaluator.channels import channel_scores
from reconvene.evaluator.curves import Floats
from reconvene.evaluator.joint import equations, log_densities, mean_density, solve
from reconvene.structure.groups import Group

if TYPE_CHECKING:
    from reconvene.saliency import Saliency
    from reconvene.saliency.subject import Objective


@dataclass(frozen=True, eq=False)
class Evidence:
    """One run's material.

    ``nats[j] = -log(levels[j])``, ascending from 0. ``log_share[j, g]``: log of the share of its channels group ``g``
    keeps at level ``j``. ``density[j, g]``: effective density of the weights it touches. ``scores[g]``: saliency per
    channel.
    """

    groups: Sequence[Group]
    saliency: Saliency
    target: float
    nats: Floats
    log_share: Floats
    density: Floats
    scores: Sequence[Floats]
    objective: Objective | None

    def at_target(self, values: Floats) -> Floats:
        """``values[levels, groups]`` at the target level, linear in nats; past the last level, the last level's."""
        at = -np.log(self.target)
        return np.array([np.interp(at, self.nats, values[:, g]) for g in range(values.shape[1])])


def gather(groups: Sequence[Group], saliency: Saliency, *, target: float, objective: Objective | None) -> Evidence:
    """Solve the widths implied at every level and sum the saliency of every channel.

    Raises ``CriterionError`` when no scored weight touches a prunable group.
    """
    system = equations(groups, {name: tuple(score.shape) for name, score in saliency.scores.items()})
    if not system.weights:
        raise CriterionError(
            f"criterion {saliency.criterion!r} scored {len(saliency.scores)} weights, but none of them touches a group "
            "that can be pruned: there is nothing to judge sensitivity by"
        )
    return Evidence(
        groups=groups,
        saliency=saliency,
        target=target,
        nats=-np.log(np.asarray(saliency.levels, dtype=np.float64)),
        log_share=solve(system, log_densities(system, saliency.densities)),
        density=mean_density(system, saliency.densities),
        scores=channel_scores(groups, saliency.scores),
        objective=objective,
    )
