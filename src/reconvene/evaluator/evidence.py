"""What evaluators work from: the groups, and whatever of scores, levels and objective an evaluator declares to read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from reconvene.errors import CriterionError
from reconvene.evaluator.channels import channel_scores
from reconvene.evaluator.widths_from_density import equations, log_densities, mean_density, solve_levels
from reconvene.structure.groups import Group
from reconvene.utils.arrays import Floats

if TYPE_CHECKING:
    from reconvene.criteria import ChannelSaliency, Saliency
    from reconvene.criteria.base import Objective


@dataclass(frozen=True, eq=False)
class Shares:
    """What the criterion's layer densities imply for groups, per level.

    ``nats[j] = -log(levels[j])``, ascending from 0. ``log_share[j, g]``: log of the share of its channels group ``g``
    keeps at level ``j``. ``density[j, g]``: density of the weights it touches.
    """

    nats: Floats
    log_share: Floats
    density: Floats

    def interpolated(self, values: Floats, density: float) -> Floats:
        """``values[levels, groups]`` at a global density, linear in nats; past the last level, the last level's."""
        nats = -np.log(density)
        return np.array([np.interp(nats, self.nats, values[:, g]) for g in range(values.shape[1])])


@dataclass(frozen=True, eq=False)
class Evidence:
    """One run's material; what is derived from the saliency is computed when it is first read.

    ``shapes``: of every weight, by name. ``target``: the global density at which single numbers are given. ``summing``:
    weights whose layer sums over its inputs, also where it has one input or one output (depthwise ones do not).

    Raises ``CriterionError`` when a criterion scored no weight that touches one of the groups.
    """

    groups: Sequence[Group]
    shapes: Mapping[str, tuple[int, ...]]
    target: float
    saliency: Saliency | None = None
    objective: Objective | None = None
    channel_saliency: ChannelSaliency | None = None
    summing: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        scores = self.saliency.scores if self.saliency is not None else None
        if scores is not None and not any(name in scores for group in self.groups for name in group.parameters):
            raise CriterionError(
                f"criterion {self.scored.criterion!r} scored {len(scores)} weights, but none of them touches a group "
                "that can be pruned. Leave the criterion out: evaluator='fan_in' needs none"
            )

    @property
    def scored(self) -> Saliency:
        """The saliency, for evaluators that read it. Raises ``CriterionError`` where there is none."""
        if self.saliency is None:
            raise CriterionError("this evaluator reads a criterion's scores, and no criterion was asked for")
        return self.saliency

    @cached_property
    def channel_scores(self) -> list[Floats]:
        """Saliency per channel of every group."""
        if self.channel_saliency is not None:
            return self.channel_saliency.scores
        return channel_scores(self.groups, self.scored.scores)

    @cached_property
    def leaving(self) -> list[NDArray[np.int64]]:
        """Channels of every group, in the order in which they leave; of equal ones the last first."""
        if self.channel_saliency is not None:
            return self.channel_saliency.leaving
        return [np.argsort(-scores, kind="stable")[::-1].astype(np.int64) for scores in self.channel_scores]

    @cached_property
    def shares(self) -> Shares | None:
        """The widths implied at every level; None where the saliency followed no levels."""
        if self.saliency is None or not len(self.saliency.levels):
            return None
        densities = self.saliency.densities
        system = equations(self.groups, {name: tuple(score.shape) for name, score in self.saliency.scores.items()})
        return Shares(
            nats=-np.log(np.asarray(self.saliency.levels, dtype=np.float64)),
            log_share=solve_levels(system, log_densities(system, densities)),
            density=mean_density(system, densities),
        )

    @property
    def channel_ranks(self) -> list[Floats] | None:
        """What says which channels of a group stay, the highest first; None where no criterion was asked for.

        The scores, or the place in the order of leaving where a criterion has one that its scores do not give.
        """
        if self.channel_saliency is not None and self.channel_saliency.order is not None:
            return [np.argsort(order).astype(np.float64) for order in self.channel_saliency.order]
        return self.channel_scores if self.saliency is not None or self.channel_saliency is not None else None

    @property
    def levels(self) -> Shares:
        """``shares``, for evaluators that read them. Raises ``CriterionError`` where no levels were followed."""
        if self.shares is None:
            raise CriterionError(
                "this evaluator reads layer densities at levels on the way down, and criterion "
                f"{self.scored.criterion!r} was asked for scores alone. Score with levels=True"
            )
        return self.shares
