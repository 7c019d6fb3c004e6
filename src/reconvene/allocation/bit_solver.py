"""From losses and limits to widths and bits: a price for the budget, bisected; then filling, and exchanges.

At a price every channel takes the bits that lose and cost least together, and stays where leaving would lose more
than staying costs: its bits, and what the layers that read it would save. Prices of that kind find the decisions on
the convex hull of loss and cost (Everett, 1963); what is left of the budget is filled greedily. Limits are kept
exactly: every decision that is returned was counted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf

import numpy as np

from reconvene.allocation.bit_prices import Price, bit_prices, channel_prices, input_prices
from reconvene.allocation.bit_problem import BitProblem, Decision
from reconvene.allocation.bit_state import BitState, exchange, exchange_channels, fill_limits
from reconvene.utils.arrays import Floats

SWEEPS = 12
BISECTIONS = 40
_ROUNDS = 3
"""How often the shares of several budgets in the price are set anew."""


@dataclass(frozen=True, eq=False)
class PricedDecision:
    """A decision, and what a unit of each limited cost was charged when it was made."""

    decision: Decision
    price: Price


def solve_bits(problem: BitProblem) -> Decision | None:
    """The decision of the least loss that was found within all limits; None where even the cheapest breaks one.

    Same problem, same decision.
    """
    priced = solve_priced(problem)
    return None if priced is None else priced.decision


def solve_priced(problem: BitProblem) -> PricedDecision | None:
    """``solve_bits`` with the price of the decision; nothing is charged where everything may stay."""
    least = problem.least()
    free = {name: 0.0 for name in problem.limits}
    if not problem.fits(least):
        return None
    if problem.fits(problem.dense()):
        return PricedDecision(problem.dense(), free)
    shares = {name: 1.0 for name in problem.limits}
    best, loss = PricedDecision(least, free), inf
    for _ in range(_ROUNDS if len(shares) > 1 else 1):
        priced = _bisect(problem, shares) or PricedDecision(least, free)
        decision = priced.decision
        state = BitState(problem, decision.copy())
        fill_limits(state)
        exchange(state)
        exchange_channels(state)
        if problem.loss(state.decision) < loss:
            best, loss = PricedDecision(state.decision, priced.price), problem.loss(state.decision)
        budget_use = {name: problem.cost(name, decision) / limit for name, limit in problem.limits.items()}
        shares = {name: share * budget_use[name] ** 2 for name, share in shares.items()}
    return best


def filled_decision(problem: BitProblem, decision: Decision) -> Decision:
    """A decision within the limits, with what is left of them given to channels and bits that gain most."""
    state = BitState(problem, decision.copy())
    fill_limits(state)
    return state.decision


def _bisect(problem: BitProblem, shares: Mapping[str, float]) -> PricedDecision | None:
    """The decision at the lowest price that keeps the limits."""
    scale = _scale(problem)
    low, high = -30.0, 30.0
    best = None
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        price = {name: scale * 2.0**middle * share / problem.limits[name] for name, share in shares.items()}
        decision = _at_price(problem, price)
        if problem.fits(decision):
            best, high = PricedDecision(decision, price), middle
        else:
            low = middle
        if high - low < 0.02 and best is not None:
            break
    return best


def _scale(problem: BitProblem) -> float:
    """The loss of the cheapest decision, gains counted as losses: a price for the whole budget of about it matters."""
    least = problem.least()
    gains = [
        np.minimum(group.removal[~mask], 0.0).sum()
        for group, mask in zip(problem.groups, least.masks, strict=True)
        if group.removal is not None
    ]
    return max(problem.loss(least) - 2 * float(sum(gains)), 1e-30)


def _at_price(problem: BitProblem, price: Price) -> Decision:
    """The best choice of every group, layer and channel at given prices for a unit of each cost."""
    decision = problem.dense()
    for _ in range(SWEEPS):
        before = decision.copy()
        best = _choose_bits(problem, decision, bit_prices(problem, decision, price))
        _choose_channels(problem, decision, channel_prices(problem, decision, price), best)
        _choose_inputs(problem, decision, input_prices(problem, decision, price))
        parts = ([*d.masks, *d.choice, d.inputs] for d in (before, decision))
        if all((a == b).all() for a, b in zip(*parts, strict=True)):
            break
    return decision


def _choose_bits(problem: BitProblem, decision: Decision, prices: list[Floats]) -> list[Floats]:
    """Set the bits of every channel; returns what each channel of each weight loses and pays with them."""
    results = []
    for w, weight in enumerate(problem.weights):
        total = weight.loss + prices[w]
        decision.choice[w] = total.argmin(axis=1).astype(np.int64)
        results.append(total.min(axis=1))
    return results


def _choose_inputs(problem: BitProblem, decision: Decision, prices: list[Floats]) -> None:
    """Set the bits of what layers read."""
    for i, (read, pays) in enumerate(zip(problem.inputs, prices, strict=True)):
        decision.inputs[i] = int((read.loss + pays).argmin())


def _choose_channels(problem: BitProblem, decision: Decision, saved: list[float], best: list[Floats]) -> None:
    """Set which channels of every group stay; ``saved``: what a channel of each group costs where it is read."""
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
        decision.masks[g][:] = False
        decision.masks[g][order[:width]] = True
