"""Decision variables: each is a ladder of widths, from the narrowest to dense, that always satisfies its equations."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reconvene.allocation.constraints import Pieces, repair
from reconvene.structure.lattice import descend, differences, moves, systems
from reconvene.utils.arrays import Floats, Widths


@dataclass(frozen=True, eq=False)
class Ladder:
    """Groups that move together (one, unless equations link them).

    ``rungs[i]``: widths of ``members`` on rung ``i``, ascending, the last one dense. ``loss[i]``: sum of the members'
    squared losses there. ``level[i]``: the worst of them, nonincreasing.
    """

    members: tuple[int, ...]
    rungs: Widths
    loss: Floats
    level: Floats


class Ladders:
    """All ladders side by side; a position is one rung per ladder, ``[ladders]``.

    ``top``: each ladder's dense rung. ``loss``, ``level`` and ``channels`` (of all members): ``[ladders, rungs]``, 0
    past the top.
    """

    def __init__(self, ladders: Sequence[Ladder]) -> None:
        self.members = tuple(ladder.members for ladder in ladders)
        self.top = np.array([len(ladder.rungs) - 1 for ladder in ladders], dtype=np.int64)
        height = int(self.top.max()) + 1
        self.loss = np.stack([_padded(ladder.loss, height, 0.0) for ladder in ladders])
        self.level = np.stack([_padded(ladder.level, height, 0.0) for ladder in ladders])
        self.channels = np.stack([_padded(ladder.rungs.sum(axis=1), height, 0) for ladder in ladders])
        count = sum(len(members) for members in self.members)
        self._owner = np.zeros(count, dtype=np.int64)
        self._width = np.zeros((count, height), dtype=np.int64)
        for u, ladder in enumerate(ladders):
            for i, g in enumerate(ladder.members):
                self._owner[g] = u
                self._width[g] = _padded(ladder.rungs[:, i], height, ladder.rungs[-1, i])

    def __len__(self) -> int:
        return len(self.members)

    def widths(self, position: Widths) -> Widths:
        """Width of every group, ``[groups]``."""
        widths: Widths = self._width[np.arange(len(self._owner)), position[self._owner]]
        return widths

    def position_at(self, level: float) -> Widths:
        """The position where every ladder is on its lowest rung with no member losing more than ``level``."""
        position: Widths = np.minimum((self.level > level).sum(axis=1), self.top)
        return position

    def at_position(self, table: Floats, position: Widths) -> Floats:
        """Entries of ``loss`` or ``level`` at a position, ``[ladders]``."""
        return np.asarray(table[np.arange(len(self)), position], dtype=np.float64)


def _padded(values: NDArray[Any], height: int, last: float) -> NDArray[Any]:
    return np.concatenate([values, np.full(height - len(values), last, dtype=values.dtype)])


def step_of(width: int, round_to: int) -> int:
    """Widths are multiples of this: ``round_to`` halved until it goes four times into ``width``."""
    step = round_to
    while step > 1 and width < 4 * step:
        step //= 2
    return step


def allowed_widths(width: int, step: int, *, fine: bool) -> Widths:
    """Multiples of ``step`` and the dense width; with ``fine`` also every width below one step."""
    widths = {width, *range(step, width, step), *(range(1, min(step, width)) if fine else ())}
    return np.array(sorted(widths), dtype=np.int64)


def ladders(
    dense: Widths,
    losses: Sequence[Floats],
    equations: Sequence[Pieces],
    *,
    round_to: int,
    fine: bool,
    fixed: Collection[int] = (),
) -> tuple[Ladders, list[Widths]]:
    """One ladder per set of linked groups, and the widths allowed for every group.

    ``losses[g][k]`` for ``k`` kept channels. Linked groups share one step: the finest of theirs, halved further while
    the equations make some rung jump more than twice what a step of every member comes to. Groups in ``fixed`` have
    their dense width alone.
    """
    allowed = [
        np.array([w]) if g in fixed else allowed_widths(int(w), step_of(int(w), round_to), fine=fine)
        for g, w in enumerate(dense)
    ]
    result = []
    for members, member_equations in systems(equations, len(dense)):
        if len(members) == 1:
            g = members[0]
            loss = losses[g][allowed[g]]
            result.append(Ladder(members, allowed[g][:, None], loss**2, loss))
            continue
        free = [g for g in members if g not in fixed]
        result.append(_linked(members, dense, losses, member_equations, allowed, free, round_to=round_to, fine=fine))
    return Ladders(result), allowed


def _linked(
    members: tuple[int, ...],
    dense: Widths,
    losses: Sequence[Floats],
    equations: Sequence[Pieces],
    allowed: list[Widths],
    free: Sequence[int],
    *,
    round_to: int,
    fine: bool,
) -> Ladder:
    """The ladder of ``members``; writes the widths it allows the ``free`` ones into ``allowed``."""
    step = min((step_of(int(dense[g]), round_to) for g in free), default=1)
    while True:
        for g in free:
            allowed[g] = allowed_widths(int(dense[g]), step, fine=fine)
        rungs = _climb(members, dense, losses, equations, allowed)
        totals = np.concatenate([[0], rungs.sum(axis=1)])
        if step == 1 or np.diff(totals).max() <= 2 * step * len(members):
            break
        step //= 2
    lost = np.stack([losses[g][rungs[:, i]] for i, g in enumerate(members)], axis=1)
    return Ladder(members, rungs, (lost**2).sum(axis=1), lost.max(axis=1))


def _climb(
    members: tuple[int, ...],
    dense: Widths,
    losses: Sequence[Floats],
    equations: Sequence[Pieces],
    allowed: Sequence[Widths],
) -> Widths:
    """From the narrowest balanced state up: each rung grows whoever loses most, and whoever must follow."""
    indices = list(members)
    steps = moves(differences(equations, members))

    def lowered(widths: Widths, lower_bound: Widths) -> Widths:
        """Back to the smallest solution above ``lower_bound``: repair may have grown past it."""
        out = widths.copy()
        out[indices] = descend(
            widths[indices],
            lower_bound[indices],
            dense[indices],
            steps,
            lambda w: all(w[i] in allowed[g] for i, g in enumerate(indices)),
        )
        return out

    widths = dense.copy()
    widths[indices] = [allowed[g][0] for g in members]
    widths = lowered(repair(widths, equations, allowed, _needs(widths, losses, members)), widths)
    rungs = [widths[indices]]
    while any(widths[g] < dense[g] for g in members):
        need = _needs(widths, losses, members)
        worst = max((g for g in members if widths[g] < dense[g]), key=lambda g: (need[g], -g))
        lower_bound = stepped(widths, worst, allowed)
        widths = lowered(repair(lower_bound, equations, allowed, need), lower_bound)
        rungs.append(widths[indices])
    return np.stack(rungs)


def stepped(widths: Widths, group: int, allowed: Sequence[Widths]) -> Widths:
    """One step more for ``group`` alone."""
    grown = widths.copy()
    options = allowed[group]
    grown[group] = options[int(np.searchsorted(options, widths[group], side="right"))]
    return grown


def grow(
    widths: Widths, group: int, equations: Sequence[Pieces], allowed: Sequence[Widths], need: Sequence[float]
) -> Widths:
    """One step more for ``group``, and whatever the equations then ask of others."""
    return repair(stepped(widths, group, allowed), equations, allowed, need)


def _needs(widths: Widths, losses: Sequence[Floats], members: tuple[int, ...]) -> list[float]:
    needs = [0.0] * len(widths)
    for g in members:
        needs[g] = float(losses[g][widths[g]])
    return needs
