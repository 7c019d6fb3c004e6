"""Local refinement: channels change hands between groups where that loses less in total and keeps every budget.

Two moves, both judged by marginal prices and then verified exactly: one ladder steps down and others climb with what
it frees; one ladder climbs and others step down to pay for it. What falls is the sum of squared losses: with the plain
sum, wide and narrow layers in turn would cost no more than even ones, since costs are products of neighbours and losses
their logarithms. No ladder sinks more than ``slack`` above the water level, so the refinement repairs what rounding did
to the level, and does not replace the criterion.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from reconvene.allocation.candidates import Ladders
from reconvene.allocation.feasibility import PriceMeter
from reconvene.utils.arrays import Floats, Widths

# Cost evaluations the refinement may spend: a fixed number, so that the result does not depend on the clock.
EVALUATIONS = 3000
# How many partners one move may have.
PARTNERS = 8


@dataclass(frozen=True, eq=False)
class Margins:
    """Prices and losses one rung away; ``up[u]``, ``down[u]`` per budget, in shares of its limit; ``inf``: barred."""

    room: Floats
    up: Floats
    down: Floats
    gain: Floats
    loss: Floats
    can_fall: NDArray[np.bool_]


Move = tuple[float, tuple[int, ...], tuple[int, ...]]


def trade(ladders: Ladders, position: Widths, meter: PriceMeter, *, cap: float) -> Widths:
    """A position of no more total loss than ``position``, no ladder's level above ``cap``, every budget kept."""
    position = position.copy()
    allowance = meter.evaluations + EVALUATIONS
    while True:
        margins = _margins(ladders, position, meter, cap)
        if not _apply(ladders, position, meter, list(_moves(margins)), allowance):
            return position


def _margins(ladders: Ladders, position: Widths, meter: PriceMeter, cap: float) -> Margins:
    current_price = meter.price(ladders.widths(position))
    count, budgets = len(ladders), len(current_price)
    up, down = np.full((count, budgets), np.inf), np.zeros((count, budgets))
    below = np.maximum(position - 1, 0)
    can_fall = (position > 0) & (ladders.at_position(ladders.level, below) <= cap)
    for u in range(count):
        step = np.zeros_like(position)
        step[u] = 1
        if position[u] < ladders.top[u]:
            up[u] = meter.price(ladders.widths(position + step)) - current_price
        if can_fall[u]:
            down[u] = current_price - meter.price(ladders.widths(position - step))
    loss = ladders.at_position(ladders.loss, position)
    above = np.minimum(position + 1, ladders.top)
    gain = loss - ladders.at_position(ladders.loss, above)
    return Margins(1.0 - current_price, up, down, gain, ladders.at_position(ladders.loss, below) - loss, can_fall)


def _apply(ladders: Ladders, position: Widths, meter: PriceMeter, moves: list[Move], allowance: int) -> bool:
    """Make the best moves that do not touch each other, in place; whether any was made."""
    moves.sort(key=lambda move: (-move[0], move[1], move[2]))
    touched: set[int] = set()
    for _, falling, climbing in moves:
        if meter.evaluations >= allowance:
            break
        if touched.isdisjoint(falling) and touched.isdisjoint(climbing):
            trial = position.copy()
            trial[list(falling)] -= 1
            trial[list(climbing)] += 1
            if meter.fits(ladders.widths(trial)):
                position[:] = trial
                touched.update(falling, climbing)
    return bool(touched) and meter.evaluations < allowance


def _moves(margins: Margins) -> Iterator[Move]:
    """Moves that promise to lower the total loss: ``(by how much, who steps down, who climbs)``."""
    threshold = 1e-9 * max(1.0, float(margins.gain.max(initial=0.0)))
    for donor in np.flatnonzero(margins.can_fall):
        climbing = _climbers(margins, int(donor))
        net = float(margins.gain[climbing].sum() - margins.loss[donor])
        if climbing and net > threshold:
            yield net, (int(donor),), tuple(climbing)
    for receiver in np.flatnonzero(np.isfinite(margins.up).all(axis=1) & (margins.gain > 0)):
        falling = _payers(margins, int(receiver))
        net = float(margins.gain[receiver] - margins.loss[falling].sum())
        if falling and net > threshold:
            yield net, tuple(falling), (int(receiver),)


def _climbers(margins: Margins, donor: int) -> list[int]:
    """Who climbs with what ``donor`` frees: the most gain for the share of it they use first."""
    freed = margins.room + margins.down[donor]
    used = (margins.up / np.maximum(freed, 1e-15)).max(axis=1)
    fits = (used <= 1) & (margins.gain > 0)
    fits[donor] = False
    worth = np.where(fits, margins.gain / np.maximum(used, 1e-9), 0.0)
    chosen: list[int] = []
    left = freed.copy()
    for u in np.argsort(-worth, kind="stable")[:PARTNERS]:
        if worth[u] > 0 and np.all(margins.up[u] <= left):
            chosen.append(int(u))
            left -= margins.up[u]
    return chosen


def _payers(margins: Margins, receiver: int) -> list[int]:
    """Who steps down so that ``receiver`` can climb: the least loss for what is missing first; empty if they cannot."""
    missing = margins.up[receiver] - margins.room
    short = missing > 0
    if not short.any():
        return []
    paid = np.minimum(margins.down[:, short] / missing[short], 1.0).min(axis=1)
    able = margins.can_fall & (paid > 0)
    able[receiver] = False
    dear = np.where(able, margins.loss / np.maximum(paid, 1e-12), np.inf)
    chosen: list[int] = []
    left = missing.copy()
    for u in np.argsort(dear, kind="stable")[:PARTNERS]:
        if not able[u] or np.all(left <= 0):
            break
        chosen.append(int(u))
        left = left - margins.down[u]
    return chosen if np.all(left <= 0) else []
