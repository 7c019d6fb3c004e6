"""Multiply-accumulates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from reconvene.costs.base import SumOfProducts
from reconvene.costs.unit import MACS

if TYPE_CHECKING:
    from reconvene.costs.base import Term
    from reconvene.structure import Structure
    from reconvene.structure.labels import Dim
    from reconvene.structure.recording import Op


class Macs(SumOfProducts):
    """Multiply-accumulates of one forward pass on the example inputs.

    Convolutions and matrix products count, attention included; norms and elementwise work do not. One fused
    multiply-add is one.
    """

    name, label, plural, unit = "macs", "Compute", "multiply-accumulates", MACS
    meaning = "Multiply-accumulates of one example: 4x, 25%, 250MMACs."

    def terms(self, structure: Structure) -> Sequence[Term]:
        """Every convolution and matrix product."""
        return [(dims, 1) for _, dims in products(structure)]


def products(structure: Structure) -> list[tuple[Op, list[Dim]]]:
    """Every convolution and matrix product of a forward pass, and the sizes whose product is its MACs.

    A cost of one's own can weigh them by operator (``op.operator``) or by layer (``op.owner``).
    """
    calls = structure.recording.ops
    return [(calls[number], dims) for number, dims in structure.context.products if not calls[number].training]
