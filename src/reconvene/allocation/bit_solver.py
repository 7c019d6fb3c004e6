"""From losses and limits to widths and bits: a price for the budget, bisected; then filling, and exchanges.

At a price every channel takes the bits that lose and cost least together, and stays where leaving would lose more
than staying costs: its bits, and what the layers that read it would save. Prices of that kind find the decisions on
the convex hull of loss and cost (Everett, 1963); what is left of the budget is filled greedily. Limits are kept
exactly: every decision that is returned was counted.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import inf

import numpy as np

from reconvene.allocation.bit_problem import BitProblem, Decision
from reconvene.allocation.bit_state import BitState, exchange, exchange_channels, fill_limits
from reconvene.utils.arrays import Floats

SWEEPS = 12
BISECTIONS = 40
_ROUNDS = 3
"""How often the shares of several budgets in the price are set anew."""


def solve_bits(problem: BitProblem) -> Decision | None:
    """The decision of the least loss that was found within all limits; None where even the cheapest breaks one.

    Same problem, same decision.
    """
    least = problem.least()
    if not problem.fits(least):
        return None
    if problem.fits(problem.dense()):
        return problem.dense()
    shares = {name: 1.0 for name in problem.limits}
    best, loss = least, inf
    for _ in range(_ROUNDS if len(shares) > 1 else 1):
        decision = _bisect(problem, shares) or least
        state = BitState(problem, decision.copy())
        fill_limits(state)
        exchange(state)
        exchange_channels(state)
        if problem.loss(state.decision) < loss:
            best, loss = state.decision, problem.loss(state.decision)
        used = {name: problem.cost(name, decision) / limit for name, limit in problem.limits.items()}
        shares = {name: share * used[name] ** 2 for name, share in shares.items()}
    return best


def _bisect(problem: BitProblem, shares: Mapping[str, float]) -> Decision | None:
    """The decision at the lowest price that keeps the limits."""
    scale = _scale(problem)
    low, high = -30.0, 30.0
    best = None
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        price = {name: scale * 2.0**middle * share / problem.limits[name] for name, share in shares.items()}
        decision = _at_price(problem, price)
        if problem.fits(decision):
            best, high = decision, middle
        else:
            low = middle
        if high - low < 0.02 and best is not None:
            break
    return best


def _scale(problem: BitProblem) -> float:
    """The loss of the cheapest decision: a price for the whole budget of about this size matters."""
    return max(problem.loss(problem.least()), 1e-30)


def _at_price(problem: BitProblem, price: Mapping[str, float]) -> Decision:
    """Everybody's best choice at a price for one unit of each cost."""
    decision = problem.dense()
    for _ in range(SWEEPS):
        before = decision.copy()
        best = _choose_bits(problem, decision, price)
        _choose_channels(problem, decision, price, best)
        same = all((a == b).all() for a, b in zip(before.kept, decision.kept, strict=True))
        if same and all((a == b).all() for a, b in zip(before.choice, decision.choice, strict=True)):
            break
    return decision


def _choose_bits(problem: BitProblem, decision: Decision, price: Mapping[str, float]) -> list[Floats]:
    """Set the bits of every channel; returns what each channel of each weight loses and pays with them."""
    sizes = problem.charges.sizes(decision.widths)
    results = []
    for w, weight in enumerate(problem.weights):
        pays = np.zeros(len(weight.bits))
        for i, bits in enumerate(weight.bits):
            for n in weight.layers:
                channels = max(sizes[n].outputs, 1)
                for name, unit in price.items():
                    pays[i] += unit * problem.charges.part(name, n, sizes[n], ((bits, channels),)) / channels
        total = weight.loss + pays
        decision.choice[w] = total.argmin(axis=1).astype(np.int64)
        results.append(total.min(axis=1))
    return results


def _choose_channels(problem: BitProblem, decision: Decision, price: Mapping[str, float], best: list[Floats]) -> None:
    """Set which channels of every group stay."""
    saved = _saved(problem, decision, price)
    for g, group in enumerate(problem.groups):
        pays = np.full(group.width, saved[g])
        for w, weight in enumerate(problem.weights):
            of_group = weight.group == g
            np.add.at(pays, weight.channel[of_group], best[w][of_group])
        if group.removal is not None:
            worth = group.removal - pays
            order = np.argsort(-worth, kind="stable")
            totals = np.concatenate([[0.0], np.cumsum(-worth[order])])
        else:
            order = np.arange(group.width)
            totals = np.concatenate([[0.0], np.cumsum(pays)])
            totals = totals + (group.curve if group.curve is not None else 0.0)
        width = int(group.allowed[np.argmin(totals[group.allowed])])
        decision.kept[g][:] = False
        decision.kept[g][order[:width]] = True


def _saved(problem: BitProblem, decision: Decision, price: Mapping[str, float]) -> list[float]:
    """What one channel of each group costs where it is read, at a price, and in costs of widths alone."""
    widths = decision.widths
    sizes = problem.charges.sizes(widths)
    counts = problem.counts(decision, sizes)
    results = []
    for g in range(len(problem.groups)):
        fewer = widths.copy()
        step = 1 if widths[g] > 1 else -1
        fewer[g] -= step
        others = problem.charges.sizes(fewer)
        reading = [n for n, (a, b) in enumerate(zip(sizes, others, strict=True)) if a != b]
        saved = 0.0
        for name, unit in price.items():
            layers = sum(
                problem.charges.part(name, n, sizes[n], counts[n]) - problem.charges.part(name, n, others[n], counts[n])
                for n in reading
            )
            beside = problem.charges.beside(name, widths) - problem.charges.beside(name, fewer)
            saved += step * unit * (layers + beside)
        results.append(max(saved, 0.0))
    return results
