"""What of a cost can never leave, divided by the reasons that keep it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from reconvene.errors import PinnedCost, PinnedShare
from reconvene.structure.analysis import Structure
from reconvene.structure.components import components
from reconvene.structure.labels import Dim, Labels, Reason, Vector

_NO_CHANNELS = "sizes that are no channels"


def pinned_cost(
    structure: Structure,
    terms: Iterable[tuple[Sequence[Dim], float]],
    cost: str,
    *,
    plural: str,
    floor: float | None = None,
) -> PinnedCost:
    """What of a cost lies where nothing may leave, by kind of reason.

    A part of a tensor can never leave if none of its dimensions can lose the positions it has there; where several
    dimensions keep it, each has an equal share in it, but for those that only meet something fixed where another has a
    reason of its own.

    Args:
        structure: the structure of the network.
        terms: dimensions and weight of every product that the cost adds up, see ``Cost.terms``.
        cost: its name.
        plural: what it counts, such as "parameters".
        floor: the least cost that could be reached, if known.
    """
    reasons = _Reasons(structure)
    amounts: dict[str, float] = defaultdict(float)
    layers: dict[str, dict[str, None]] = defaultdict(dict)
    dense = 0.0
    for dims, weight in terms:
        factors = [factor for dim in dims for factor in dim]
        dense += weight * float(np.prod([size for size, _ in factors]))
        pinned_amount = weight * float(np.prod([reasons.pinned(size, labels) for size, labels in factors]))
        if not pinned_amount:
            continue
        parts = [part for _, labels in factors if labels is not None and (part := reasons.of(labels))]
        parts = [part for part in parts if not all(_follows(reason) for reason, _ in part)] or parts
        for part in parts or [[(_NO_CHANNELS, 1.0)]]:
            for reason, share in part:
                reason_kind, layer = (reason.kind, reason.layer) if isinstance(reason, Reason) else (reason, "")
                amounts[reason_kind] += pinned_amount * share / max(len(parts), 1)
                layers[reason_kind][layer] = None
    shares = [
        PinnedShare(reason_kind, tuple(layers[reason_kind]), amount, amount / dense)
        for reason_kind, amount in amounts.items()
    ]
    shares.sort(key=lambda share: -share.amount)
    return PinnedCost(cost, dense, sum(amounts.values()), tuple(shares), floor, plural)


def _follows(reason: str) -> bool:
    return isinstance(reason, Reason) and reason.follows


def reasons_of_atoms(labels: Labels) -> tuple[Vector, list[str]]:
    """For every atom the number of the first reason that keeps it (-1: none), and the reasons.

    A tie that no axis can carry keeps its positions, too; the reasons of pins come first.
    """
    free = components(labels.count, labels.unions, [])
    pins = [(vector, reason) for vector, reason in labels.pins if reason]
    ties = [
        (vector, tie.reason)
        for tie in labels.ties
        for vector in (tie.array.reshape(-1), *(axis for axis in tie.axes if axis is not None))
    ]
    everything = [*pins, *ties]
    first = np.full(labels.count, -1, dtype=np.int64)
    for number in range(len(everything) - 1, -1, -1):
        first[free[everything[number][0]]] = number
    return first[free], [reason for _, reason in everything]


class _Reasons:
    """Pinned positions of label vectors, and why they are; each vector is looked at once."""

    def __init__(self, structure: Structure) -> None:
        self.stays: NDArray[np.bool_] = structure.atom_group < 0
        self.number, self.reasons = reasons_of_atoms(structure.context.labels)
        self._reason_shares: dict[int, list[tuple[str, float]]] = {}

    def pinned(self, size: int, labels: Vector | None) -> int:
        """Positions of a factor that never leave."""
        return size if labels is None else int(np.count_nonzero(self.stays[labels]))

    def of(self, labels: Vector) -> list[tuple[str, float]]:
        """Reasons of the pinned positions, and each one's share of those that have one."""
        if id(labels) not in self._reason_shares:
            numbers = self.number[labels[self.stays[labels]]]
            unique, counts = np.unique(numbers[numbers >= 0], return_counts=True)
            total = float(counts.sum())
            self._reason_shares[id(labels)] = [
                (self.reasons[n], c / total) for n, c in zip(unique, counts, strict=True)
            ]
        return self._reason_shares[id(labels)]
