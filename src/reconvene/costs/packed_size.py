"""Bytes of a network whose weights are packed into a few bits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from reconvene.costs.file_size import FileSize
from reconvene.costs.formula import Formula
from reconvene.costs.layer_rule import KINDS, SIZES, LayerCosts, LayerRule

if TYPE_CHECKING:
    from reconvene.costs.base import CostFunction
    from reconvene.costs.layers import Layer
    from reconvene.structure import Structure

_PACKED = LayerRule(
    KINDS, None, None, (), Formula("ceil(weights * w / 8) + 8 * k", SIZES, place="size"), per_weight=True
)
_NOTHING = LayerRule(KINDS, None, None, (), Formula("0", SIZES, place="size"), per_weight=True)


class PackedSize(FileSize):
    """Bytes of packed weights, with a scale and a bias of 32 bits a channel, and of the other parameters in float32.

    Batch norms are folded into the layers before them. What a file has beside that, its graph and its header, is not
    counted.
    """

    condition = "of packed weights, scales and biases, without the graph of a file"

    def layer_costs(self, layers: Sequence[Layer]) -> LayerCosts:
        """The part that layers have, at any bits."""
        return LayerCosts(layers, [_PACKED if layer.weight else _NOTHING for layer in layers], 8, lambda total: total)

    def beside(self, structure: Structure, layers: Sequence[Layer], folded: frozenset[str]) -> CostFunction:
        """The part that no layer has: parameters that stay float32. ``folded``: those that layers take in."""
        from reconvene.costs.base import CostFunction
        from reconvene.costs.sizes import Products, sizes_of

        packed = {layer.weight for layer in layers} | folded
        sizes, tensors = sizes_of(structure), structure.context.tensors
        names = [name for name in structure.shapes if name not in packed]
        dims = [tensors[id(structure.recording.parameters[name])] for name in names]
        products = Products(sizes, dims, [4] * len(dims)) if dims else None
        return CostFunction(lambda widths: products.at(sizes.at(widths)) if products is not None else 0.0)
