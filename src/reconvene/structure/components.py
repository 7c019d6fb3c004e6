"""Connected components over atoms: of whole runs at once where labels are runs, else atom by atom.

Nearly every label vector is a run ``start, start + 1, ...``, and a union of two vectors joins run to run. Cut at the
ends of all runs, atoms fall into segments that are joined as wholes: some hundreds of them instead of every atom.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from reconvene.structure.labels import Vector

_ROUNDS = 20
"""Cuts are carried from run to run so often; a network takes a few rounds."""
_FINEST = 4
"""Segments are worth their administration where they hold so many atoms on average."""


def components(count: int, unions: Sequence[tuple[Vector, Vector]], pins: Sequence[Vector]) -> Vector:
    """Connected components over atoms ``0 .. count - 1``, each named by its smallest atom; pins join atom 0."""
    if not unions and not pins:
        return np.arange(count, dtype=np.int64)
    first = np.concatenate([np.ravel(a) for a, _ in unions]) if unions else np.zeros(0, dtype=np.int64)
    second = np.concatenate([np.ravel(b) for _, b in unions]) if unions else np.zeros(0, dtype=np.int64)
    pinned = np.concatenate([np.ravel(p) for p in pins]) if pins else np.zeros(0, dtype=np.int64)
    by_runs = _by_runs(count, first, second, pinned)
    if by_runs is not None:
        return by_runs
    first, second = np.concatenate([first, np.zeros(len(pinned), dtype=np.int64)]), np.concatenate([second, pinned])
    return _joined(np.arange(count, dtype=np.int64), first, second)


def merge(root: Vector, unions: Sequence[tuple[Vector, Vector]], pins: Sequence[Vector]) -> Vector:
    """Components after more unions; pins are unions with atom 0."""
    if not unions and not pins:
        return root
    pinned = [np.zeros(len(p), dtype=np.int64) for p in pins]
    first = np.concatenate([np.ravel(a) for a, _ in unions] + pinned)
    second = np.concatenate([np.ravel(b) for _, b in unions] + [np.ravel(p) for p in pins])
    return _joined(root.copy(), first, second)


def _joined(parent: Vector, first: Vector, second: Vector) -> Vector:
    """``parent`` after joining ``first[i]`` with ``second[i]`` for every ``i``; it is changed in place."""
    while True:
        a, b = parent[first], parent[second]
        open_edges = a != b
        if not open_edges.any():
            return parent
        first, second, a, b = first[open_edges], second[open_edges], a[open_edges], b[open_edges]
        np.minimum.at(parent, np.maximum(a, b), np.minimum(a, b))
        while True:  # pointer jumping: halves the depth of every tree in each step
            shorter = parent[parent]
            if np.array_equal(shorter, parent):
                break
            parent = shorter


def _by_runs(count: int, first: Vector, second: Vector, pinned: Vector) -> Vector | None:
    """The components by segments; ``None`` where the segments would be too small."""
    at_zero = (first == 0) | (second == 0)
    if at_zero.any():  # a union with atom 0 is a pin
        pinned = np.concatenate([pinned, first[at_zero], second[at_zero]])
        first, second = first[~at_zero], second[~at_zero]
    begin = _begins(first) | _begins(second)
    left, right = first[begin], second[begin]
    lengths = np.diff(np.flatnonzero(np.append(begin, True)))
    begin = _begins(pinned)
    stay, stay_lengths = pinned[begin], np.diff(np.flatnonzero(np.append(begin, True)))
    if (len(left) + len(stay)) * _FINEST > len(first) + len(pinned):
        return None
    border = np.array([0, 1, count])
    ends = (left, left + lengths, right, right + lengths, stay, stay + stay_lengths, border)
    cuts = _closed(np.unique(np.concatenate(ends)), left, right, lengths)
    if cuts is None or len(cuts) * _FINEST > count:
        return None
    sizes = np.diff(cuts)
    fixed = _segments(cuts, stay, stay_lengths)
    segment = _joined(
        np.arange(len(sizes), dtype=np.int64),
        np.concatenate([_segments(cuts, left, lengths), np.zeros(len(fixed), dtype=np.int64)]),
        np.concatenate([_segments(cuts, right, lengths), fixed]),
    )
    shift = np.where(segment > 0, cuts[segment] - cuts[:-1], 0)
    root: Vector = np.arange(count, dtype=np.int64) + np.repeat(shift, sizes)
    root[np.repeat(segment == 0, sizes)] = 0
    return root


def _begins(vector: Vector) -> NDArray[np.bool_]:
    """Where a run begins, bool."""
    begins = np.ones(len(vector), dtype=np.bool_)
    np.not_equal(vector[1:], vector[:-1] + 1, out=begins[1:])
    return begins


def _closed(cuts: Vector, left: Vector, right: Vector, lengths: Vector) -> Vector | None:
    """The cuts and, wherever one lies within a run, the one at the same place of the run that it is joined with."""
    for _ in range(_ROUNDS):
        more = [
            cuts[inner] + np.repeat(there - here, number)
            for here, there in ((left, right), (right, left))
            for inner, number in [_within(cuts, here, lengths)]
        ]
        wider = np.union1d(cuts, np.concatenate(more))
        if len(wider) == len(cuts):
            return cuts
        cuts = wider
    return None


def _within(cuts: Vector, starts: Vector, lengths: Vector) -> tuple[Vector, Vector]:
    """The numbers of the cuts strictly within every run, and how many these are."""
    lowest = np.searchsorted(cuts, starts, side="right")
    number = np.searchsorted(cuts, starts + lengths, side="left") - lowest
    return _counted(lowest, number), number


def _segments(cuts: Vector, starts: Vector, lengths: Vector) -> Vector:
    """The segments of every run, one run behind the other."""
    lowest = np.searchsorted(cuts, starts)
    return _counted(lowest, np.searchsorted(cuts, starts + lengths) - lowest)


def _counted(lowest: Vector, number: Vector) -> Vector:
    """``lowest[i], lowest[i] + 1, ...`` of ``number[i]`` each, one behind the other."""
    ends = np.cumsum(number)
    return np.arange(ends[-1] if len(ends) else 0) + np.repeat(lowest - ends + number, number)
