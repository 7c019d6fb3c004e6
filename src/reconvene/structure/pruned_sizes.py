"""Sizes of the smaller model: of one choice of channels, and as functions of widths."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from reconvene.errors import StructureError
from reconvene.structure.groups import Balance
from reconvene.structure.labels import Dim
from reconvene.structure.lattice import descend, differences, moves, systems
from reconvene.utils.arrays import Widths


def kept_size(dim: Dim, mask: NDArray[np.bool_], counts: dict[int, int] | None = None) -> int:
    """Size of a dimension when only these atoms stay; ``counts`` remembers what was counted before."""
    total = 1
    for size, labels in dim:
        if labels is None:
            total *= size
            continue
        count = counts.get(id(labels)) if counts is not None else None
        if count is None:
            count = int(np.count_nonzero(mask[labels]))
            if counts is not None:
                counts[id(labels)] = count
        total *= count
    return total


def kept_positions(dim: Dim, mask: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Which positions of a dimension stay, ascending."""
    if len(dim) == 1 and dim[0][1] is not None:
        return np.flatnonzero(mask[dim[0][1]])
    flags = np.ones(1, dtype=np.bool_)
    for size, labels in dim:
        factor_flags = np.ones(size, dtype=np.bool_) if labels is None else mask[labels]
        flags = np.logical_and.outer(flags, factor_flags).reshape(-1)
    return np.flatnonzero(flags)


def settle(balances: Sequence[Balance], widths: Widths, dense: Widths) -> Widths:
    """The widths, raised where pieces that must stay equal are not. Dense widths always satisfy every balance."""
    lower_bound, widths = widths, widths.copy()
    for _ in range(int(dense.sum()) + 1):
        short = _first_short(balances, widths)
        if short is None:
            return _lowered(balances, widths, lower_bound, dense)
        piece, missing = short
        # The group that overshoots least; among those the narrowest part of its dense width.
        room = [g for g in piece if widths[g] < dense[g]]
        if not room:
            break
        best = min(room, key=lambda g: (max(piece[g] - missing, 0), widths[g] / dense[g], g))
        widths[best] += max(1, min(missing // piece[best], int(dense[best] - widths[best])))
    raise StructureError("pieces that must stay equal cannot be made equal; please report this model")


def _lowered(balances: Sequence[Balance], widths: Widths, lower_bound: Widths, dense: Widths) -> Widths:
    """The same, lowered again where growing ran past a smaller solution."""
    out = widths.copy()
    for groups, equations in systems(balances, len(widths)):
        members = list(groups)
        if equations and (widths[members] > lower_bound[members]).any():
            steps = moves(differences(equations, members))
            out[members] = descend(widths[members], lower_bound[members], dense[members], steps, lambda _: True)
    return out


def _first_short(balances: Sequence[Balance], widths: Widths) -> tuple[dict[int, int], int] | None:
    for balance in balances:
        counts = [
            fixed + sum(n * int(widths[g]) for g, n in piece.items())
            for piece, fixed in zip(balance.pieces, balance.fixed, strict=True)
        ]
        largest_count = max(counts)
        for piece, count in zip(balance.pieces, counts, strict=True):
            if count < largest_count:
                return piece, largest_count - count
    return None
