"""Peak memory of activations."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from reconvene.costs.base import Cost, CostFunction, Network
from reconvene.costs.unit import BYTES

if TYPE_CHECKING:
    from torch import nn

    from reconvene.structure import Structure


class PeakMemory(Cost):
    """Bytes of the largest set of activations alive at once, the calls in recorded order.

    Each activation is freed after its last use; inputs count, views and in-place results share, weights are not in it.
    Layouts may need a copy at some widths and none at others, which no function of widths says: so the network that
    was planned is counted again.
    """

    name, label, plural, unit = "peak_memory", "Peak memory", "bytes of activations", BYTES
    meaning = "Bytes of activations alive at once: 2x, 256KiB."
    condition = "as PyTorch holds activations"
    measured, dense_is_exact = True, True

    def bind(self, structure: Structure, network: Network | None) -> CostFunction:
        """The peak at any widths, copies left out that only some widths need."""
        from reconvene.costs.lifetimes import Peak
        from reconvene.costs.sizes import sizes_of

        sizes = sizes_of(structure)
        peak = Peak(structure, sizes)
        return CostFunction(lambda widths: peak.at(sizes.at(widths)))

    def measure(self, model: nn.Module, example_inputs: Any) -> float:
        """The peak of a network, counted in a pass of its own."""
        from reconvene.structure import analyse

        structure = analyse(model, example_inputs, trial=False)
        return self.bind(structure, None).at(structure.widths)
