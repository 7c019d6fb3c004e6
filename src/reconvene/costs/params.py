"""Parameters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from reconvene.costs.base import SumOfProducts

if TYPE_CHECKING:
    from reconvene.costs.base import Term
    from reconvene.structure import Structure


class Params(SumOfProducts):
    """Scalar parameters; tied ones count once."""

    name, label, plural, less = "params", "Parameters", "parameters", "fewer"
    meaning = "Parameters: 16x (16 times fewer), 25%, 1.5M."

    def terms(self, structure: Structure) -> Sequence[Term]:
        """Every parameter."""
        from torch import nn

        tensors = structure.context.tensors
        return [
            (tensors[id(tensor)], 1)
            for tensor in structure.recording.parameters.values()
            if isinstance(tensor, nn.Parameter)
        ]
