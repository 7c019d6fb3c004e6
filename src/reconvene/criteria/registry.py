"""The criteria by name. To add one: a file with a ``Criterion`` or a ``ChannelCriterion``, and a line here."""

from __future__ import annotations

from reconvene.criteria.base import Criterion
from reconvene.criteria.channels.activity import ACTIVITY_CRITERIA
from reconvene.criteria.channels.base import ChannelCriterion
from reconvene.criteria.channels.derivatives import DERIVATIVE_CRITERIA
from reconvene.criteria.channels.feature_maps import FEATURE_MAP_CRITERIA
from reconvene.criteria.channels.weights import WEIGHT_CRITERIA
from reconvene.criteria.grasp import GRASP
from reconvene.criteria.magnitude import MAGNITUDE
from reconvene.criteria.random import RANDOM
from reconvene.criteria.snip import SNIP
from reconvene.criteria.synflow import SYNFLOW
from reconvene.errors import CriterionError, UnknownNameError

CRITERIA: dict[str, Criterion] = {entry.name: entry for entry in (RANDOM, MAGNITUDE, SNIP, GRASP, SYNFLOW)}
"""Criteria that score every weight."""
CHANNEL_CRITERIA: dict[str, ChannelCriterion] = {
    entry.name: entry for entry in (*WEIGHT_CRITERIA, *DERIVATIVE_CRITERIA, *FEATURE_MAP_CRITERIA, *ACTIVITY_CRITERIA)
}
"""Criteria that score every channel of a group, norms included: those of trained networks."""


def criterion(name: str) -> Criterion:
    """Look a criterion of weights up; ``UnknownNameError`` lists the known ones."""
    if name in CHANNEL_CRITERIA:
        raise CriterionError(
            f"criterion {name!r} scores channels and not weights, so it gives no masks or densities of weights. "
            f"Those that score weights: {', '.join(sorted(CRITERIA))}"
        )
    if name not in CRITERIA:
        raise UnknownNameError("criterion", name, CRITERIA)
    return CRITERIA[name]


def channel_criterion(name: str) -> ChannelCriterion:
    """Look a criterion of channels up; ``UnknownNameError`` lists the known ones."""
    if name not in CHANNEL_CRITERIA:
        raise UnknownNameError("criterion of channels", name, CHANNEL_CRITERIA)
    return CHANNEL_CRITERIA[name]


def any_criterion(name: str) -> Criterion | ChannelCriterion:
    """Look a criterion of either kind up; ``UnknownNameError`` lists all of them."""
    everything: dict[str, Criterion | ChannelCriterion] = {**CRITERIA, **CHANNEL_CRITERIA}
    if name not in everything:
        raise UnknownNameError("criterion", name, everything)
    return everything[name]
