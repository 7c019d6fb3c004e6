"""From recorded unions, pins and ties to channels: one pass of connected components, then the ties one by one."""

from __future__ import annotations

import numpy as np

from reconvene.structure.components import components, merge
from reconvene.structure.labels import Labels, Tie, Vector


def solve_channels(labels: Labels) -> Vector:
    """The channel of every atom, named by its smallest atom (int64 ``[atoms]``); 0 for pinned atoms.

    Ties are decided when all unions are known: an axis that cannot be free is pinned, a single free axis takes the
    labels; of several, axes that are the batch of an activation product (attention heads) come first, then the
    larger; after each choice everything is looked at again, since one choice often forces the next.
    """
    unions = list(labels.unions)
    pins = [vector for vector, _ in labels.pins]
    root = components(labels.count, unions, pins)
    pending = list(labels.ties)
    while pending:
        pending, forced_unions, forced_pins = _forced(pending, root)
        if not (forced_unions or forced_pins):
            pending, forced_unions, forced_pins = _choose(pending, root, _heads(labels, root))
        unions, pins = forced_unions, forced_pins
        root = merge(root, unions, pins)
    return root


_Decision = tuple[list[tuple[Vector, Vector]], list[Vector]]


def _forced(pending: list[Tie], root: Vector) -> tuple[list[Tie], list[tuple[Vector, Vector]], list[Vector]]:
    """Decide every tie that has at most one axis to choose from."""
    later: list[Tie] = []
    unions: list[tuple[Vector, Vector]] = []
    pins: list[Vector] = []
    for tie in pending:
        axis = _only_axis(tie, root)
        if axis is None:
            later.append(tie)
            continue
        more_unions, more_pins = _decide(tie, axis)
        unions += more_unions
        pins += more_pins
    return later, unions, pins


def _only_axis(tie: Tie, root: Vector) -> int | None:
    """The one axis that can carry the labels, -1 for none, ``None`` while several can."""
    array = root[tie.array]
    if not array.any():
        return -1
    free = [i for i, axis in enumerate(tie.axes) if axis is not None and root[axis].any()]
    if not free:
        return -1
    if len(free) == 1:
        return free[0]
    for axis in free:
        index = tuple(slice(None) if a == axis else slice(0, 1) for a in range(array.ndim))
        if (array == array[index]).all():
            return axis
    return None


def _decide(tie: Tie, axis: int) -> _Decision:
    others = [labels for i, labels in enumerate(tie.axes) if i != axis and labels is not None]
    chosen = tie.axes[axis] if axis >= 0 else None
    if chosen is None:
        return [], [tie.array.reshape(-1), *others]
    shape = [1] * tie.array.ndim
    shape[axis] = -1
    return [(tie.array, np.broadcast_to(chosen.reshape(shape), tie.array.shape))], others


def _heads(labels: Labels, root: Vector) -> Vector:
    flags = np.zeros(labels.count, dtype=np.bool_)
    for vector in labels.heads:
        flags[root[vector]] = True
    flags[0] = False
    return flags.astype(np.int64)


def _choose(
    pending: list[Tie], root: Vector, heads: Vector
) -> tuple[list[Tie], list[tuple[Vector, Vector]], list[Vector]]:
    """Choose an axis for the ties that stand highest, at most one tie for each set of connected channels."""
    ranked = sorted(((_preference(tie, root, heads), n) for n, tie in enumerate(pending)), key=lambda r: (r[0], -r[1]))
    touched = np.zeros(len(root), dtype=np.bool_)
    unions: list[tuple[Vector, Vector]] = []
    pins: list[Vector] = []
    decided: set[int] = set()
    for (_, _, negative_axis), number in reversed(ranked):
        tie = pending[number]
        members = np.concatenate([root[tie.array].reshape(-1)] + [root[a] for a in tie.axes if a is not None])
        members = members[members > 0]
        if touched[members].any():
            touched[members] = True
            continue
        touched[members] = True
        more_unions, more_pins = _decide(tie, -negative_axis)
        unions += more_unions
        pins += more_pins
        decided.add(number)
    return [tie for n, tie in enumerate(pending) if n not in decided], unions, pins


def _preference(tie: Tie, root: Vector, heads: Vector) -> tuple[int, int, int]:
    """(is a head axis, size, minus axis) of the best free axis; larger is chosen first."""
    return max(
        (int(heads[root[axis]].any()), len(axis), -i)
        for i, axis in enumerate(tie.axes)
        if axis is not None and root[axis].any()
    )
