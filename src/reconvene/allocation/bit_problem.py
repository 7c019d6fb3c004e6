"""Widths and bits as one decision: what each choice loses, and what the network costs with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from reconvene.utils.arrays import Floats, Ints

_Counts = tuple[tuple[int, int], ...]


class Charges(Protocol):
    """Costs at widths and bits; ``reconvene.costs.with_bits.BitCosts``."""

    names: tuple[str, ...]

    def sizes(self, widths: Ints) -> list[Any]:
        """The sizes of every layer at these widths."""

    def part(self, name: str, number: int, size: Any, counts: _Counts, activations: int | None = None) -> float:
        """The share of one layer in a cost; ``activations``: bits of what it reads, where they are decided."""

    def beside(self, name: str, widths: Ints) -> float:
        """What a cost has beside the shares of layers."""

    def total(self, name: str, layers: float, beside: float) -> float:
        """The cost whose layers add up to ``layers``."""


@dataclass(frozen=True, eq=False)
class WeightChoices:
    """The output channels of one weight, each of which gets one of ``bits``.

    Attributes:
        name: name of the weight.
        axis: the dimension of the weight that its output channels lie along.
        layers: numbers of the layers that read it.
        group: the group that each output channel belongs to, int64 ``[outputs]``; -1 where it never leaves.
        channel: which channel of the group it is.
        bits: the choices, ascending, without zero.
        loss: what each choice of each channel loses, ``[outputs, bits]``.
    """

    name: str
    axis: int
    layers: tuple[int, ...]
    group: Ints
    channel: Ints
    bits: tuple[int, ...]
    loss: Floats


@dataclass(frozen=True, eq=False)
class GroupChoices:
    """The channels of one group, which stay or leave.

    Attributes:
        width: how many there are.
        allowed: the widths it may have, ascending.
        removal: what each channel loses when it leaves, ``[width]``, where that adds up.
        curve: what the group loses by kept width, ``[width + 1]``, where it does not; channels leave from the last.
    """

    width: int
    allowed: Ints
    removal: Floats | None = None
    curve: Floats | None = None


@dataclass(frozen=True, eq=False)
class InputChoices:
    """What some weights multiply, which gets one of ``bits``: weights that read the same tensor read the same bits.

    Attributes:
        weights: numbers of the weights.
        bits: the choices, ascending.
        loss: what each choice loses, ``[bits]``.
    """

    weights: tuple[int, ...]
    bits: tuple[int, ...]
    loss: Floats


@dataclass(eq=False)
class Decision:
    """Kept channels of every group, bool ``[width]``; for every weight the choice of each output channel.

    ``inputs``: the choice of what weights multiply, int64 ``[inputs]``, in the order of ``BitProblem.inputs``.
    """

    masks: list[NDArray[np.bool_]]
    choice: list[Ints]
    inputs: Ints

    def copy(self) -> Decision:
        """A decision of its own."""
        return Decision([k.copy() for k in self.masks], [c.copy() for c in self.choice], self.inputs.copy())

    @property
    def widths(self) -> Ints:
        """Kept width of every group."""
        return np.array([int(mask.sum()) for mask in self.masks], dtype=np.int64)


@dataclass(frozen=True, eq=False)
class BitProblem:
    """What is to be decided, and the limits of the costs. ``layers``: how many layers the network has.

    Channels of layers without a weight of their own, such as products of activations, have ``plain`` bits. Without
    ``inputs`` nothing is decided about activations: they have the bits of the costs.
    """

    groups: Sequence[GroupChoices]
    weights: Sequence[WeightChoices]
    charges: Charges
    limits: Mapping[str, float]
    layers: int
    plain: int = 8
    inputs: Sequence[InputChoices] = ()
    of_layer: dict[int, int] = field(init=False)
    _input_of: dict[int, int] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "of_layer", {n: w for w, weight in enumerate(self.weights) for n in weight.layers})
        object.__setattr__(self, "_input_of", {w: i for i, read in enumerate(self.inputs) for w in read.weights})

    def dense(self) -> Decision:
        """Everything stays, with the most bits."""
        return Decision(
            [np.ones(group.width, dtype=np.bool_) for group in self.groups],
            [np.full(len(weight.group), len(weight.bits) - 1, dtype=np.int64) for weight in self.weights],
            np.array([len(read.bits) - 1 for read in self.inputs], dtype=np.int64),
        )

    def least(self) -> Decision:
        """The cheapest decision: the fewest channels, with the fewest bits."""
        decision = self.dense()
        for mask, group in zip(decision.masks, self.groups, strict=True):
            mask[_best(group)[int(group.allowed[0]) :]] = False
        for choice in (*decision.choice, decision.inputs):
            choice[:] = 0
        return decision

    def present(self, w: int, decision: Decision) -> NDArray[np.bool_]:
        """Which output channels of a weight stay, ``[outputs]``."""
        weight = self.weights[w]
        stays = np.ones(len(weight.group), dtype=np.bool_)
        for g in np.unique(weight.group[weight.group >= 0]):
            of_group = weight.group == g
            stays[of_group] = decision.masks[g][weight.channel[of_group]]
        return stays

    def counts_of(self, w: int, decision: Decision) -> _Counts:
        """How many output channels of a weight have so many bits."""
        chosen = decision.choice[w][self.present(w, decision)]
        numbers = np.bincount(chosen, minlength=len(self.weights[w].bits)).tolist()
        return tuple((bits, n) for bits, n in zip(self.weights[w].bits, numbers, strict=True) if n)

    def counts(self, decision: Decision, sizes: Sequence[Any]) -> list[_Counts]:
        """``counts_of`` for every layer."""
        of_weight = [self.counts_of(w, decision) for w in range(len(self.weights))]
        return [
            of_weight[self.of_layer[n]] if n in self.of_layer else ((self.plain, sizes[n].outputs),)
            for n in range(self.layers)
        ]

    def activations(self, n: int, inputs: Ints) -> int | None:
        """Bits of what a layer reads, by the choices of all inputs; None where nothing is decided about it."""
        number = self._input_of.get(self.of_layer.get(n, -1))
        return None if number is None else self.inputs[number].bits[inputs[number]]

    def read_bits(self, decision: Decision) -> dict[str, int]:
        """Bits of what layers read by the name of the layer, where they are fewer than 8."""
        return {
            self.weights[w].name.rpartition(".")[0]: read.bits[i]
            for read, i in zip(self.inputs, decision.inputs, strict=True)
            for w in read.weights
            if read.bits[i] < self.plain
        }

    def share(self, name: str, decision: Decision, sizes: Sequence[Any]) -> float:
        """The sum over layers in one cost of a decision, whose layers have these sizes."""
        counts = self.counts(decision, sizes)
        return sum(
            self.charges.part(name, n, size, counts[n], self.activations(n, decision.inputs))
            for n, size in enumerate(sizes)
        )

    def cost(self, name: str, decision: Decision) -> float:
        """One cost of a decision."""
        widths = decision.widths
        layers = self.share(name, decision, self.charges.sizes(widths))
        return self.charges.total(name, layers, self.charges.beside(name, widths))

    def fits(self, decision: Decision) -> bool:
        """Whether a decision keeps every limit."""
        return all(self.cost(name, decision) <= limit for name, limit in self.limits.items())

    def loss(self, decision: Decision) -> float:
        """What a decision loses."""
        total = 0.0
        for mask, group in zip(decision.masks, self.groups, strict=True):
            if group.curve is not None:
                total += float(group.curve[int(mask.sum())])
            elif group.removal is not None:
                total += float(group.removal[~mask].sum())
        for w, weight in enumerate(self.weights):
            stays = self.present(w, decision)
            total += float(weight.loss[stays, decision.choice[w][stays]].sum())
        return total + sum(float(read.loss[i]) for read, i in zip(self.inputs, decision.inputs, strict=True))


def _best(group: GroupChoices) -> Ints:
    """Channels of a group from the one that loses most when it leaves."""
    if group.removal is None:
        return np.arange(group.width, dtype=np.int64)
    return np.argsort(-group.removal, kind="stable").astype(np.int64)
