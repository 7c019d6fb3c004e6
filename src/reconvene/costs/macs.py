"""Multiply-accumulates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from reconvene.costs.base import CostFunction, SumOfProducts
from reconvene.costs.unit import MACS

if TYPE_CHECKING:
    from reconvene.costs.base import Network, Term
    from reconvene.structure import Structure
    from reconvene.structure.labels import Dim
    from reconvene.structure.recording import Op
    from reconvene.utils.arrays import Widths


class _ForwardPass(SumOfProducts):
    """Multiply-accumulates of one forward pass on all of the example inputs."""

    def terms(self, structure: Structure) -> Sequence[Term]:
        """Every convolution and matrix product."""
        return [(dims, 1) for _, dims in products(structure)]


class Macs(SumOfProducts):
    """Multiply-accumulates of one example: of a forward pass on the example inputs, divided by their number.

    Convolutions and matrix products count, attention included; norms and elementwise work do not. One fused
    multiply-add is one.
    """

    name, label, plural, unit = "macs", "Compute", "multiply-accumulates", MACS
    meaning = "Multiply-accumulates of one example: 4x, 25%, 250MMACs."

    def bind(self, structure: Structure, network: Network | None) -> CostFunction:
        """The sum at any widths: a whole number, unless some product is shared by all examples."""
        whole, examples = _ForwardPass().bind(structure, network).lower_bound, examples_of(structure)

        def of_one(widths: Widths) -> float:
            total = whole(widths)
            return total / examples if total % examples else total // examples

        return CostFunction(of_one)

    def terms(self, structure: Structure) -> Sequence[Term]:
        """Every convolution and matrix product."""
        share = 1 / examples_of(structure)
        return [(dims, share) for _, dims in products(structure)]


def examples_of(structure: Structure) -> int:
    """How many examples the example inputs hold (``structure.examples``); one where outputs do not say so."""
    from reconvene.structure.examples import example_axis

    recording = structure.recording
    axis = example_axis(recording)
    if axis is None:
        return 1
    return max(1, next(tensor.shape[axis] for tensor in recording.inputs if tensor.ndim))


def products(structure: Structure) -> list[tuple[Op, list[Dim]]]:
    """Every convolution and matrix product of a forward pass, and the sizes whose product is its MACs.

    A cost of one's own can weigh them by operator (``op.operator``) or by layer (``op.owner``).
    """
    calls = structure.recording.ops
    return [(calls[number], dims) for number, dims in structure.context.products if not calls[number].training]
