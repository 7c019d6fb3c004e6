"""The least sum of squared losses within the budgets, where losses add up: every channel pays its price.

Lagrange's way. At given widths a channel of each group has a price, its share of what the budgets allow. At a rate of
exchange each group takes the width where loss and price together are least; the rate is bisected until all budgets
hold, exactly; then prices are taken anew at the widths that were found. Since a cost is a product of the widths on both
sides of a layer, this settles: a group that has become too wide makes its neighbours dear.
"""

from __future__ import annotations

import numpy as np

from reconvene.allocation.candidates import Ladders
from reconvene.allocation.feasibility import PriceMeter
from reconvene.utils.arrays import Floats, Widths

_ROUNDS = 20
# Rates of exchange are bisected to this ratio.
_NEAR = 1.0005


def minimise_loss(ladders: Ladders, position: Widths, meter: PriceMeter) -> Widths:
    """The visited position with the least total loss, at most that of ``position``, which must keep the budgets."""
    best, lowest_loss = position, _total(ladders, position)
    weight = np.ones(len(meter.limits))
    for _ in range(_ROUNDS):
        moved = _affordable(ladders, _prices(ladders, position, meter) @ weight, meter)
        if moved is None or np.array_equal(moved, position):
            break
        position = moved
        if _total(ladders, position) < lowest_loss:
            best, lowest_loss = position, _total(ladders, position)
        # A budget with room to spare should hardly count, whatever its prices say.
        weight *= meter.price(ladders.widths(position)) ** 2
        weight /= weight.max()
    return best


def _total(ladders: Ladders, position: Widths) -> float:
    return float(ladders.at_position(ladders.loss, position).sum())


def _prices(ladders: Ladders, position: Widths, meter: PriceMeter) -> Floats:
    """What a channel of each ladder costs, in shares of every limit: ``[ladders, budgets]``."""
    current_price = meter.price(ladders.widths(position))
    prices = np.zeros((len(ladders), len(current_price)))
    for u in range(len(ladders)):
        neighbour = position.copy()
        neighbour[u] += -1 if position[u] > 0 else 1 if ladders.top[u] > 0 else 0
        channels = ladders.channels[u, position[u]] - ladders.channels[u, neighbour[u]]
        if channels:
            prices[u] = (current_price - meter.price(ladders.widths(neighbour))) / channels
    return np.maximum(prices, 0.0)


def _affordable(ladders: Ladders, price: Floats, meter: PriceMeter) -> Widths | None:
    """The position at the lowest rate of exchange that keeps all budgets; None where no rate does."""
    paid = price[:, None] * ladders.channels
    beyond = np.arange(ladders.loss.shape[1]) > ladders.top[:, None]

    def position_at(rate: float) -> Widths:
        total = np.where(beyond, np.inf, ladders.loss + rate * paid)
        # Of equal ones the widest: what costs nothing stays.
        return np.asarray(ladders.loss.shape[1] - 1 - np.argmin(total[:, ::-1], axis=1), dtype=np.int64)

    low, high = 1e-12, 1e12
    if not meter.fits(ladders.widths(position_at(high))):
        return None
    while high > _NEAR * low:
        middle = (low * high) ** 0.5
        if meter.fits(ladders.widths(position_at(middle))):
            high = middle
        else:
            low = middle
    return position_at(high)
