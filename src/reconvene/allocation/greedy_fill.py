"""Filling: nothing that fits is left out. Afterwards no group, with whoever must follow it, can grow one step."""

from __future__ import annotations

from collections.abc import Sequence
from heapq import heapify, heappop, heappush

import numpy as np

from reconvene.allocation.candidates import allowed_widths, grow, step_of
from reconvene.allocation.constraints import Pieces
from reconvene.allocation.feasibility import PriceMeter
from reconvene.structure.lattice import systems
from reconvene.utils.arrays import Floats, Widths

ENOUGH = 0.9
"""The share of the tightest budget that multiples should use; below it, finer steps fill the rest."""


def fill_widths(
    widths: Widths, losses: Sequence[Floats], equations: Sequence[Pieces], allowed: Sequence[Widths], meter: PriceMeter
) -> Widths:
    """Widths at which no group, with whoever must follow it, can grow to its next allowed width within the budgets."""
    return Filler(widths, losses, equations, allowed, meter).fill()


def fill_finer(
    widths: Widths,
    losses: Sequence[Floats],
    equations: Sequence[Pieces],
    allowed: Sequence[Widths],
    meter: PriceMeter,
    *,
    round_to: int,
) -> tuple[Widths, int]:
    """Fill in halved steps while the tightest budget is used to less than ``ENOUGH``; returns the last step too.

    Narrow networks cost a tenth and more per step, and stop that far below a budget. What is wide enough already keeps
    its multiple of ``round_to``.
    """
    dense = np.array([options[-1] for options in allowed], dtype=np.int64)
    step = round_to
    while step > 1 and np.any(widths < dense) and float(meter.price(widths).max()) < ENOUGH:
        step //= 2
        allowed = _finer(dense, equations, allowed, step)
        widths = fill_widths(widths, losses, equations, allowed, meter)
    return widths, step


def _finer(dense: Widths, equations: Sequence[Pieces], allowed: Sequence[Widths], round_to: int) -> list[Widths]:
    """What is allowed, and multiples of a finer step; groups that equations link share the finest step of theirs."""
    result = list(allowed)
    for members, _ in systems(equations, len(dense)):
        step = min(step_of(int(dense[g]), round_to) for g in members)
        for g in members:
            result[g] = np.union1d(allowed[g], allowed_widths(int(dense[g]), step, fine=False))
    return result


class Filler:
    """Widths that grow group by group while every budget stays kept."""

    def __init__(
        self,
        widths: Widths,
        losses: Sequence[Floats],
        equations: Sequence[Pieces],
        allowed: Sequence[Widths],
        meter: PriceMeter,
    ) -> None:
        self.widths, self.losses, self.equations = widths.copy(), losses, equations
        self.allowed, self.meter = allowed, meter
        self.room = 1.0 - meter.price(widths)
        self.need = [float(loss[width]) for loss, width in zip(losses, widths, strict=True)]

    def fill(self) -> Widths:
        """Grow whoever gains most for the room it takes, until nobody can grow within the budgets."""
        queue = [(-self._try(g)[0], g) for g in range(len(self.widths)) if self._open(g)]  # the greatest worth first
        queue = [(price, g) for price, g in queue if price <= 0]
        heapify(queue)
        while queue:
            price, best = heappop(queue)
            if not self._open(best):  # it had to follow another group up to its dense width
                continue
            now, grown = self._try(best)
            while queue and not self._open(queue[0][1]):
                heappop(queue)
            if now < 0:
                continue  # costs never fall when widths grow: what does not fit now never will
            if queue and now < -queue[0][0]:
                heappush(queue, (-now, best))  # its worth was computed when there was more room: ask the next one first
            else:
                self._accept(grown)
                heappush(queue, (price, best))
        return self.widths

    def _open(self, group: int) -> bool:
        return int(self.widths[group]) < int(self.allowed[group][-1])

    def _accept(self, grown: Widths) -> None:
        for g in np.flatnonzero(grown != self.widths).tolist():
            self.need[g] = float(self.losses[g][grown[g]])
        self.widths, self.room = grown, 1.0 - self.meter.price(grown)

    def _try(self, group: int) -> tuple[float, Widths]:
        """The value of one step of ``group`` (squared loss saved per share of room; -1: no room), and new widths."""
        grown = grow(self.widths, group, self.equations, self.allowed, self.need)
        left = 1.0 - self.meter.price(grown)
        if np.any(left < 0) or not self.meter.fits(grown):
            return -1.0, self.widths
        changed = np.flatnonzero(grown != self.widths).tolist()
        saved = sum(self.need[g] ** 2 - float(self.losses[g][grown[g]]) ** 2 for g in changed)
        used_share = float(((self.room - left) / np.maximum(self.room, 1e-15)).max())
        return saved / max(used_share, 1e-12), grown
