"""What a cost file says of layers: formulas over sizes and bits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

from reconvene.costs.formula import Formula

if TYPE_CHECKING:
    from reconvene.costs.layers import Layer, LayerSizes

CONVOLUTION, DEPTHWISE, LINEAR, PRODUCT = "convolution", "depthwise", "linear", "product"
KINDS = (CONVOLUTION, DEPTHWISE, LINEAR, PRODUCT)
"""Kinds of layers; a product is one of two activations, as in attention, and has no weight."""
SIZES = ("k", "cin", "kernel", "height", "width", "places", "weights", "outputs", "macs", "w", "a")
"""What formulas of layers may use: see ``LayerRule``."""
Counts = tuple[tuple[int, int], ...]
"""How many output channels of a layer have so many bits: pairs ``(bits, channels)``."""


@dataclass(frozen=True, eq=False)
class LayerRule:
    """What layers of some kinds and kernels cost.

    ``amount`` is evaluated for every width of bits in a layer, and where there is a ``tile`` for every tile of as many
    output channels, the last one smaller. Names: ``k`` output channels, ``cin`` input channels that each of them reads,
    ``kernel`` size of the kernel, ``height`` and ``width`` of the output, ``places`` their product, ``weights`` =
    kernel * cin * k, ``outputs`` = k * places, ``macs`` = weights * places, ``w`` and ``a`` bits of weights and
    activations, and what ``where`` defines before it. The amount counts once a sample of the example inputs; with
    ``per_weight`` it counts once a weight, however many calls read that.
    """

    kinds: tuple[str, ...]
    kernels: tuple[tuple[int, ...], ...] | None
    tile: int | None
    where: tuple[tuple[str, Formula], ...]
    amount: Formula
    per_weight: bool = False

    def fits(self, layer: Layer) -> bool:
        """Whether it is about this layer."""
        return layer.kind in self.kinds and (self.kernels is None or layer.kernel in self.kernels)

    def evaluate(self, layer: Layer, sizes: LayerSizes, counts: Counts, activations: int) -> float:
        """The cost of a layer at these sizes, its output channels of these bits."""
        total = 0.0
        for bits, channels in counts:
            tile = channels if self.tile is None else self.tile
            tiles = [(tile, channels // tile), (channels % tile, 1)] if tile else []
            total += sum(n * self._tile(layer, sizes, k, bits, activations) for k, n in tiles if k and n)
        return total * (1 if self.per_weight else sizes.samples)

    def _tile(self, layer: Layer, sizes: LayerSizes, k: int, bits: int, activations: int) -> float:
        kernel, places = prod(layer.kernel), prod(sizes.spatial)
        width = sizes.spatial[-1] if sizes.spatial else 1
        weights = kernel * sizes.inputs * k
        values: dict[str, float] = {
            "k": k,
            "cin": sizes.inputs,
            "kernel": kernel,
            "height": places // max(width, 1),
            "width": width,
            "places": places,
            "weights": weights,
            "outputs": k * places,
            "macs": weights * places,
            "w": activations if layer.kind == PRODUCT else bits,
            "a": activations,
        }
        for name, formula in self.where:
            values[name] = formula(values)
        return self.amount(values)


class LayerCosts:
    """One cost of a network as a sum over its layers, at any widths and bits.

    Args:
        layers: the layers of the network.
        rules: what each of them costs, in the same order.
        activations: bits of activations where nothing else is decided.
        finish: from the sum over all layers to the cost of the network.
    """

    def __init__(
        self,
        layers: Sequence[Layer],
        rules: Sequence[LayerRule],
        activations: int,
        finish: Callable[[float], float],
    ) -> None:
        self.layers, self.rules, self.activations, self.finish = layers, rules, activations, finish
        first = {layer.weight: number for number, layer in reversed(list(enumerate(layers)))}
        # A weight that is computed has no name: each is a weight of its own.
        self._again = {
            n for n, rule in enumerate(rules) if rule.per_weight and layers[n].weight and first[layers[n].weight] != n
        }
        self._known: dict[tuple[int, LayerSizes, Counts, int], float] = {}

    def of(self, number: int, sizes: LayerSizes, counts: Counts, activations: int | None = None) -> float:
        """The share of one layer in the sum, by its number; ``activations``: bits of what it reads, if not the most."""
        if number in self._again:
            return 0.0
        read = self.activations if activations is None else activations
        key = (number, sizes, counts, read)
        if key not in self._known:
            self._known[key] = self.rules[number].evaluate(self.layers[number], sizes, counts, read)
        return self._known[key]

    def at(self, sizes: Sequence[LayerSizes], counts: Sequence[Counts]) -> float:
        """The cost of the network whose layers have these sizes and bits."""
        pairs = zip(sizes, counts, strict=True)
        return self.finish(sum(self.of(number, size, count) for number, (size, count) in enumerate(pairs)))
