"""What one more channel, and one channel of so many bits, costs at a price: the slopes that a decision is made by."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from reconvene.allocation.bit_problem import BitProblem, Decision
from reconvene.utils.arrays import Floats

Price = Mapping[str, float]
"""What a unit of each cost is charged."""


def bit_prices(problem: BitProblem, decision: Decision, price: Price) -> list[Floats]:
    """What an output channel of each weight pays with each choice of bits, ``[bits]``.

    The mean over all channels of a layer: a chip that works in tiles charges nothing for most single ones.
    """
    sizes = problem.charges.sizes(decision.widths)
    results = []
    for weight in problem.weights:
        pays = np.zeros(len(weight.bits))
        for i, bits in enumerate(weight.bits):
            for n in weight.layers:
                channels = max(sizes[n].outputs, 1)
                read = problem.activations(n, decision.inputs)
                for name, unit in price.items():
                    pays[i] += unit * problem.charges.part(name, n, sizes[n], ((bits, channels),), read) / channels
        results.append(pays)
    return results


def input_prices(problem: BitProblem, decision: Decision, price: Price) -> list[Floats]:
    """What the layers that read each input pay with each choice of its bits, ``[bits]``."""
    sizes = problem.charges.sizes(decision.widths)
    results = []
    for read in problem.inputs:
        pays = np.zeros(len(read.bits))
        for w in read.weights:
            counts = problem.counts_of(w, decision)
            for n in problem.weights[w].layers:
                for i, bits in enumerate(read.bits):
                    pays[i] += sum(
                        unit * problem.charges.part(name, n, sizes[n], counts, bits) for name, unit in price.items()
                    )
        results.append(pays)
    return results


def channel_prices(problem: BitProblem, decision: Decision, price: Price) -> list[float]:
    """What one channel of each group costs where it is read, and in costs of widths alone."""
    widths = decision.widths
    sizes = problem.charges.sizes(widths)
    counts = problem.counts(decision, sizes)
    results = []
    for g in range(len(problem.groups)):
        fewer = widths.copy()
        step = _step(problem, g, int(widths[g]))
        if not step:
            results.append(0.0)
            continue
        fewer[g] -= step
        others = problem.charges.sizes(fewer)
        reading = [n for n, (a, b) in enumerate(zip(sizes, others, strict=True)) if a != b]
        saved = 0.0
        for name, unit in price.items():
            layers = 0.0
            for n in reading:
                read = problem.activations(n, decision.inputs)
                layers += problem.charges.part(name, n, sizes[n], counts[n], read)
                layers -= problem.charges.part(name, n, others[n], counts[n], read)
            beside = problem.charges.beside(name, widths) - problem.charges.beside(name, fewer)
            saved += unit * (layers + beside) / step
        results.append(max(saved, 0.0))
    return results


def _step(problem: BitProblem, g: int, width: int) -> int:
    """How far it is to the next width that a group may have: down, or at its least width up, which is negative.

    Zero for a group of one channel that stays: no cost knows it without the channel, or with a second one.
    """
    allowed = problem.groups[g].allowed
    lower, higher = allowed[allowed < width], allowed[allowed > width]
    if len(lower):
        return width - int(lower[-1])
    if len(higher):
        return width - int(higher[0])
    return 1 if width > 1 else 0


def finish_slope(problem: BitProblem, decision: Decision, name: str) -> float:
    """By how much a cost of the whole network grows with the sum over its layers, as energy does with cycles."""
    layers = problem.share(name, decision, problem.charges.sizes(decision.widths))
    if not layers:
        return 1.0
    beside = problem.charges.beside(name, decision.widths)
    grown = problem.charges.total(name, 1.01 * layers, beside) - problem.charges.total(name, layers, beside)
    return grown / (0.01 * layers)
