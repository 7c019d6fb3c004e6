"""Equations between widths: pieces that Python cuts equally must keep equal counts.

Everything here grows widths and never shrinks them. The dense widths satisfy every equation, so growing always ends in
a balanced state, at the latest in the dense one; it is the smallest reachable total that is chosen at each equation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from reconvene.errors import BudgetError, StructureError
from reconvene.structure.groups import Balance
from reconvene.structure.lattice import members_of
from reconvene.utils.arrays import Widths


@dataclass(frozen=True)
class Pieces:
    """One equation with what all its pieces share taken out; ``disjoint``: no group sits in two pieces."""

    pieces: tuple[dict[int, int], ...]
    fixed: tuple[int, ...]
    disjoint: bool

    def totals(self, counts: Sequence[int] | Widths) -> list[int]:
        """What every piece keeps."""
        return [
            fixed + sum(int(counts[g]) * times for g, times in piece.items())
            for piece, fixed in zip(self.pieces, self.fixed, strict=True)
        ]


def simplify_equations(balances: Sequence[Balance], dense: Widths) -> list[Pieces]:
    """Equations without what cancels or always holds. ``StructureError`` when the dense widths break one."""
    result = []
    for balance in balances:
        common = {g: min(piece.get(g, 0) for piece in balance.pieces) for g in members_of(balance)}
        pieces = tuple({g: n - common[g] for g, n in piece.items() if n > common[g]} for piece in balance.pieces)
        members = [g for piece in pieces for g in piece]
        equation = Pieces(pieces, balance.fixed, len(members) == len(set(members)))
        if len(set(equation.totals(dense))) > 1:
            raise StructureError(f"pieces that must keep equal counts do not even do so whole: {balance.reason}")
        if members:
            result.append(equation)
    return result


def capped(balances: Sequence[Balance], dense: Widths, fixed: Mapping[int, int]) -> Widths:
    """The widest widths with these ``fixed`` ones that satisfy every equation, as lowering one piece at a time finds.

    Raises ``BudgetError`` where none do.
    """
    caps = dense.copy()
    for g, width in fixed.items():
        caps[g] = width
    while (unequal := _unequal(balances, caps)) is not None:
        balance, longest, excess = unequal
        free = [g for g in balance.pieces[longest] if g not in fixed and caps[g] > 1]
        if not free:
            raise BudgetError(
                f"the widths that were asked for do not go together: {balance.reason}, so pieces keep equal counts. "
                "Ask for the same share of every layer that is tied so, or leave all but one of them free"
            )
        widest = max(free, key=lambda g: (int(caps[g]), -g))
        caps[widest] -= min(max(excess // balance.pieces[longest][widest], 1), int(caps[widest]) - 1)
    return caps


def _unequal(balances: Sequence[Balance], widths: Widths) -> tuple[Balance, int, int] | None:
    """An equation that does not hold, its longest piece, and by how much that is longer than the shortest."""
    for balance in balances:
        totals = [
            fixed + sum(int(widths[g]) * times for g, times in piece.items())
            for piece, fixed in zip(balance.pieces, balance.fixed, strict=True)
        ]
        if len(set(totals)) > 1:
            return balance, totals.index(max(totals)), max(totals) - min(totals)
    return None


def repair(counts: Widths, equations: Sequence[Pieces], allowed: Sequence[Widths], need: Sequence[float]) -> Widths:
    """Grow ``counts`` as little as one equation at a time can until all of them hold.

    ``allowed[g]``: ascending widths group ``g`` may have, the dense one last. ``need[g]``: who should grow first when
    there is a choice (the loss at the present width).
    """
    widths = counts.copy()
    moved = True
    while moved:
        moved = False
        for equation in equations:
            totals = equation.totals(widths)
            if len(set(totals)) == 1:
                continue
            moved = True
            _level(widths, equation, totals, allowed, need)
    return widths


def _level(
    widths: Widths, equation: Pieces, totals: list[int], allowed: Sequence[Widths], need: Sequence[float]
) -> None:
    """Grow one equation's pieces in place: all to their smallest common total, or one piece if they share groups."""
    highest = max(totals)
    if equation.disjoint:
        growing = list(range(len(totals)))
    else:
        growing = [next(p for p, total in enumerate(totals) if total < highest)]
    reachable = [_reachable(widths, equation.pieces[p], equation.fixed[p], allowed, need) for p in growing]
    common = -1 << highest
    for _, sets in reachable:
        common &= sets[-1]
    if common == 0:
        raise StructureError(f"no widths give equal counts for pieces {equation.pieces}; please report this model")
    total = (common & -common).bit_length() - 1
    for p, (order, sets) in zip(growing, reachable, strict=True):
        _assign(widths, equation.pieces[p], order, sets, total, allowed)


def _reachable(
    widths: Widths, piece: dict[int, int], fixed: int, allowed: Sequence[Widths], need: Sequence[float]
) -> tuple[list[int], list[int]]:
    """Groups by rising need, and after each the set (as bits) of totals that growing the groups so far can reach."""
    order = sorted(piece, key=lambda g: (need[g], -g))
    sets = [1 << fixed]
    for g in order:
        grown = 0
        for width in allowed[g]:
            if width >= widths[g]:
                grown |= sets[-1] << (int(width) * piece[g])
        sets.append(grown)
    return order, sets


def _assign(
    widths: Widths, piece: dict[int, int], order: list[int], sets: list[int], total: int, allowed: Sequence[Widths]
) -> None:
    """Walk back from ``total``: the neediest group first, at the largest width that the other groups can complete."""
    for position in range(len(order) - 1, -1, -1):
        g = order[position]
        for width in allowed[g][::-1]:
            remaining = total - int(width) * piece[g]
            if width >= widths[g] and remaining >= 0 and sets[position] >> remaining & 1:
                widths[g] = width
                total = remaining
                break
