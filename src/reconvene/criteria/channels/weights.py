"""Criteria that read the weights alone: norms of slices, scales of norms, distances between filters."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from reconvene.criteria.channels.base import ChannelCriterion, ChannelScores, ChannelSubject, Order
from reconvene.criteria.channels.slots import GROUP, ROWS, Role, Roles, channel_sums
from reconvene.errors import CriterionError
from reconvene.utils.arrays import Floats


def l1(subject: ChannelSubject) -> ChannelScores:
    """``sum |w|`` over the rows that compute the channel (1608.08710)."""
    return ChannelScores(_power_sums(subject, ROWS, 1))


def l2(subject: ChannelSubject) -> ChannelScores:
    """``sum |w|^2`` over the rows that compute the channel."""
    return ChannelScores(_power_sums(subject, ROWS, 2))


def group_l2(subject: ChannelSubject) -> ChannelScores:
    """``sum |w|^2`` over everything coupled to the channel but biases: rows, columns, scales (2301.12900)."""
    return ChannelScores(_power_sums(subject, GROUP, 2))


def slimming(subject: ChannelSubject) -> ChannelScores:
    """``sum |gamma|`` over the scales of the norms that the channel passes through (1708.06519).

    Raises ``CriterionError`` for groups that pass through none.
    """
    scales: frozenset[Role] = frozenset({"scale"})
    roles = Roles.of(subject.model, subject.structure)
    without = [group.name for group in subject.structure.prunable if not roles.slots(group, scales)]
    if without:
        raise CriterionError(
            f"criterion 'slimming' reads the scales of norms, and {len(without)} groups pass through no norm: "
            f"{', '.join(without[:5])}. Keep them whole (keep=[{without[0]!r}, ...]), or use criterion='group_l2'"
        )
    return ChannelScores(_power_sums(subject, scales, 1))


def lamp(subject: ChannelSubject) -> ChannelScores:
    """``e / sum of e' over e' >= e`` in the group, where ``e`` is ``group_l2`` (2010.07611, for channels).

    The largest channel of every group has the score 1 (equal ones share it), so scores compare across groups.
    """
    return ChannelScores([_lamp(energy) for energy in _power_sums(subject, GROUP, 2)])


def fpgm(subject: ChannelSubject) -> ChannelScores:
    """Sum of Euclidean distances from the channel's filters to all filters of their layers (1811.00250).

    A small sum says that others can stand for the channel. When a channel leaves, it can stand for no other any more:
    ``order`` takes the smallest sum of distances to the channels that are left, again after every channel. Of equal
    filters all but one leave first, since that one replaces them exactly.
    """
    roles = Roles.of(subject.model, subject.structure)
    scores, order = [], []
    for group in subject.structure.prunable:
        total = np.zeros(group.width)
        between, apart = np.zeros((group.width, group.width)), np.zeros((group.width, group.width))
        for slot in roles.slots(group, ROWS):
            filters = roles.parameters[slot.parameter].movedim(slot.dim, 0).flatten(1).double()
            distance = torch.cdist(filters, filters, compute_mode="donot_use_mm_for_euclid_dist").cpu().numpy()
            total += distance.sum(axis=1)[slot.index].sum(axis=1)
            for one in slot.index.T:
                apart += distance[one[:, None], one[None, :]]
                for other in slot.index.T:
                    between += distance[one[:, None], other[None, :]]
        scores.append(total)
        order.append(_replaceable_first(total, between, apart == 0))
    return ChannelScores(scores, order)


def _power_sums(subject: ChannelSubject, wanted: frozenset[Role], power: int) -> list[Floats]:
    roles = Roles.of(subject.model, subject.structure)
    values = {name: value.double().abs() ** power for name, value in roles.parameters.items()}
    return channel_sums(subject.structure, lambda group: roles.slots(group, wanted), values)


def _lamp(energy: Floats) -> Floats:
    ascending = np.sort(energy)
    from_here_up = np.cumsum(ascending[::-1])[::-1]
    at_least = from_here_up[np.searchsorted(ascending, energy, side="left")]
    return np.divide(energy, at_least, out=np.zeros_like(energy), where=at_least > 0)


def _replaceable_first(total: Floats, between: Floats, equal: NDArray[np.bool_]) -> Order:
    """``equal``: pairs of channels whose filters are equal one by one, in the order in which a channel has them."""
    remaining, order = total.copy(), np.empty(len(total), dtype=np.int64)
    twins = equal.sum(axis=1) - 1  # filters that are left and equal, but for itself
    for position in range(len(total)):
        # A filter with an equal one beside it is replaced exactly, however far it is from the others.
        has_twin = (twins > 0) & np.isfinite(remaining)
        leaving = int(np.argmin(np.where(has_twin, remaining, np.inf) if has_twin.any() else remaining))
        twins -= equal[:, leaving]
        order[position] = leaving
        remaining -= between[:, leaving]
        remaining[order[: position + 1]] = np.inf
    return order


WEIGHT_CRITERIA = (
    ChannelCriterion("l1", l1),
    ChannelCriterion("l2", l2),
    ChannelCriterion("group_l2", group_l2),
    ChannelCriterion("slimming", slimming),
    ChannelCriterion("lamp", lamp),
    ChannelCriterion("fpgm", fpgm),
)
