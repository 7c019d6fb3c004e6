"""A decision on widths and bits with its running costs: single steps that are counted in microseconds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations, combinations_with_replacement

import numpy as np
from numpy.typing import NDArray

from reconvene.allocation.bit_problem import BitProblem, Decision
from reconvene.utils.arrays import Ints

# Exchanges look at pairs of channels: beyond this many channels, prices leave nothing that pairs would find.
_PAIRED = 40
# Exchanges of channels try every network beside the present one: only on tiny networks does that matter.
_TINY = 24
_PASSES = 4


@dataclass(frozen=True)
class _Step:
    """Another choice for one output channel of a weight; ``gain``: what it loses less.

    Without a ``weight`` it is the choice of what layers read, and ``output`` the number of that input.
    """

    weight: int | None
    output: int
    choice: int
    gain: float


class BitState:
    """A decision, the share of every layer in every limited cost, and whether a step keeps the limits."""

    def __init__(self, problem: BitProblem, decision: Decision) -> None:
        self.problem, self.decision = problem, decision
        self.count()

    def count(self) -> None:
        """Count everything anew: after channels came or left."""
        problem, decision = self.problem, self.decision
        widths = decision.widths
        self._sizes = problem.charges.sizes(widths)
        self._counts = [dict(problem.counts_of(w, decision)) for w in range(len(problem.weights))]
        self._stays = [problem.present(w, decision) for w in range(len(problem.weights))]
        self._layers = {name: problem.share(name, decision, self._sizes) for name in problem.limits}
        self._beside = {name: problem.charges.beside(name, widths) for name in problem.limits}

    def steps(self, distance: int) -> list[_Step]:
        """The choice so far up, or down where it is negative, of every channel that stays and of every input."""
        steps = []
        for w, weight in enumerate(self.problem.weights):
            choice = self.decision.choice[w]
            after = choice + distance
            possible = np.flatnonzero(self._stays[w] & (after >= 0) & (after < len(weight.bits)))
            gains = weight.loss[possible, choice[possible]] - weight.loss[possible, after[possible]]
            for output, gain in zip(possible.tolist(), gains.tolist(), strict=True):
                steps.append(_Step(w, output, int(after[output]), gain))
        for i, (read, now) in enumerate(zip(self.problem.inputs, self.decision.inputs.tolist(), strict=True)):
            if 0 <= now + distance < len(read.bits):
                steps.append(_Step(None, i, now + distance, float(read.loss[now] - read.loss[now + distance])))
        return steps

    @property
    def distances(self) -> list[int]:
        """How far apart two choices can be, down and up."""
        most = max((len(bits) for bits in self._choices), default=1)
        return [distance for distance in range(1 - most, most) if distance]

    @property
    def _choices(self) -> list[tuple[int, ...]]:
        return [*(weight.bits for weight in self.problem.weights), *(read.bits for read in self.problem.inputs)]

    def change(self, *steps: _Step) -> dict[str, float]:
        """By how much the sums over layers grow, by cost."""
        counts = {step.weight: dict(self._counts[step.weight]) for step in steps if step.weight is not None}
        before, inputs = self.decision.inputs, self.decision.inputs.copy()
        touched = set(counts)
        for step in steps:
            if step.weight is None:
                inputs[step.output] = step.choice
                touched.update(self.problem.inputs[step.output].weights)
            else:
                self._move(counts[step.weight], step.weight, step)
        grown = {}
        for name in self.problem.limits:
            grown[name] = sum(
                self._part(name, n, counts.get(w, self._counts[w]), inputs)
                - self._part(name, n, self._counts[w], before)
                for w in sorted(touched)
                for n in self.problem.weights[w].layers
            )
        return grown

    def fits(self, grown: dict[str, float]) -> bool:
        """Whether the limits are kept when the sums grow so."""
        total = self.problem.charges.total
        return all(
            total(name, self._layers[name] + grown[name], self._beside[name]) <= limit
            for name, limit in self.problem.limits.items()
        )

    def take(self, grown: dict[str, float], *steps: _Step) -> None:
        """Take steps whose change is known."""
        for step in steps:
            if step.weight is None:
                self.decision.inputs[step.output] = step.choice
                continue
            self._move(self._counts[step.weight], step.weight, step)
            self.decision.choice[step.weight][step.output] = step.choice
        for name, amount in grown.items():
            self._layers[name] += amount

    def used(self, grown: dict[str, float]) -> float:
        """The largest share of a limit that a change takes."""
        return max(amount / self.problem.limits[name] for name, amount in grown.items())

    def _move(self, counts: dict[int, int], weight: int, step: _Step) -> None:
        bits = self.problem.weights[weight].bits
        before = bits[self.decision.choice[weight][step.output]]
        counts[before] -= 1
        if not counts[before]:
            del counts[before]
        counts[bits[step.choice]] = counts.get(bits[step.choice], 0) + 1

    def _part(self, name: str, n: int, counts: dict[int, int], inputs: Ints) -> float:
        read = self.problem.activations(n, inputs)
        return self.problem.charges.part(name, n, self._sizes[n], tuple(sorted(counts.items())), read)


def fill_limits(state: BitState) -> None:
    """Give channels back, and then more bits."""
    _give_back(state)
    fill_bits(state)


def fill_bits(state: BitState) -> None:
    """Give more bits, to those first that gain most for what they take of the limits."""
    for _ in range(_PASSES):
        offers = [(step, state.change(step)) for step in state.steps(1) if step.gain > 0]
        offers.sort(key=lambda offer: -offer[0].gain / max(state.used(offer[1]), 1e-12))
        swapped = False
        for step, _ in offers:
            grown = state.change(step)
            if state.fits(grown):
                state.take(grown, step)
                swapped = True
        if not swapped:
            return


def _give_back(state: BitState) -> None:
    """Widen groups by their best channels that left, with the fewest bits, while the limits allow it."""
    problem = state.problem
    for g, group in enumerate(problem.groups):
        while True:
            width = int(state.decision.masks[g].sum())
            wider = group.allowed[group.allowed > width]
            if not len(wider):
                break
            trial = state.decision.copy()
            worth = np.arange(group.width, 0, -1.0) if group.removal is None else group.removal
            cut_channels = np.flatnonzero(~trial.masks[g])
            back = cut_channels[np.argsort(-worth[cut_channels], kind="stable")][: int(wider[0]) - width]
            trial.masks[g][back] = True
            for w, weight in enumerate(problem.weights):
                returning = (weight.group == g) & np.isin(weight.channel, back)
                trial.choice[w][returning] = 0
            if problem.loss(trial) >= problem.loss(state.decision) or not problem.fits(trial):
                break
            state.decision = trial
            state.count()


def exchange(state: BitState) -> None:
    """Take bits from one channel for another while that loses less; on small networks only.

    On tiny ones three channels exchange bits at once.
    """
    while len(state.steps(1)) <= _PAIRED:
        steps = [step for distance in state.distances for step in state.steps(distance)]
        for _, several in sorted(_exchanges(steps), key=lambda offer: -offer[0]):
            grown = state.change(*several)
            if state.fits(grown):
                state.take(grown, *several)
                break
        else:
            return


def _exchanges(steps: list[_Step]) -> list[tuple[float, tuple[_Step, ...]]]:
    """Steps of different channels that together lose less, with what they gain."""
    offers = []
    for number in (2, 3) if len(steps) <= _TINY else (2,):
        for several in combinations(steps, number):
            gain = sum(step.gain for step in several)
            if gain > 1e-15 and len({(step.weight, step.output) for step in several}) == number:
                offers.append((gain, several))
    return offers


def exchange_channels(state: BitState) -> None:
    """Let one channel leave, return, or stand in for another, while that loses less; on tiny networks only."""
    problem = state.problem
    if sum(len(weight.group) for weight in problem.weights) > _TINY:
        return
    loss, moved = problem.loss(state.decision), True
    while moved:
        moved = False
        for masks in _neighbours(state):
            trial = problem.least()
            trial.masks = masks
            if not problem.fits(trial):
                continue
            neighbour = BitState(problem, trial)
            fill_bits(neighbour)
            exchange(neighbour)
            if problem.loss(neighbour.decision) < loss - 1e-15:
                state.decision, loss, moved = neighbour.decision, problem.loss(neighbour.decision), True
                state.count()
                break


def _neighbours(state: BitState) -> Iterator[list[NDArray[np.bool_]]]:
    """Kept channels that differ from the present ones by one or two channels of a group."""
    for g, group in enumerate(state.problem.groups):
        present = state.decision.masks[g]
        for first, second in combinations_with_replacement(range(group.width), 2):
            neighbour = present.copy()
            neighbour[[first, second]] = ~neighbour[[first, second]]
            if group.removal is not None and int(neighbour.sum()) in group.allowed:
                yield [neighbour if number == g else mask.copy() for number, mask in enumerate(state.decision.masks)]
