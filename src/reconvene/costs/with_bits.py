"""All costs of one network at any widths and bits: what the solver of both asks."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from reconvene.costs.base import Cost, CostFunction, Network
from reconvene.costs.cost_file import FileCost
from reconvene.costs.layer_rule import Counts, LayerCosts
from reconvene.costs.layers import LayerSizes, LayerTable
from reconvene.costs.packed_size import PackedSize
from reconvene.structure import Structure
from reconvene.utils.arrays import Ints


class BitCosts:
    """Costs by name, at widths (int64 ``[groups]``) and counts of bits (one entry a layer of ``table``).

    Args:
        structure: the structure of the network.
        costs: the costs; those that are no sums over layers depend on widths alone.
        network: the network itself.
        table: the layers of the structure.
        unpacked: weights that no file holds in few bits.
        aimed: costs that somebody corrects by measuring: here they are the bounds that never fall when a width grows.
    """

    def __init__(
        self,
        structure: Structure,
        costs: Mapping[str, Cost],
        network: Network,
        *,
        table: LayerTable,
        unpacked: Collection[str] = (),
        aimed: Collection[str] = (),
    ) -> None:
        self._aimed = frozenset(aimed)
        self.table, layers = table, table.layers
        self.names = tuple(costs)
        self._sums: dict[str, LayerCosts] = {}
        self._beside: dict[str, CostFunction] = {}
        for name, cost in costs.items():
            if isinstance(cost, FileCost):
                self._sums[name] = cost.layer_costs(layers)
            elif isinstance(cost, PackedSize):
                self._sums[name] = cost.layer_costs(layers, unpacked)
                self._beside[name] = cost.beside(structure, layers, unpacked)
            else:
                self._beside[name] = cost.bind(structure, network)

    def sizes(self, widths: Ints) -> list[LayerSizes]:
        """The sizes of every layer at these widths."""
        return self.table.at(widths)

    def part(self, name: str, number: int, size: LayerSizes, counts: Counts, activations: int | None = None) -> float:
        """The share of one layer in a cost; 0 where that depends on widths alone."""
        sums = self._sums.get(name)
        return 0.0 if sums is None else sums.of(number, size, counts, activations)

    def beside(self, name: str, widths: Ints) -> float:
        """What a cost has beside the shares of layers."""
        function = self._beside.get(name)
        if function is None:
            return 0.0
        return function.lower_bound(widths) if name in self._aimed else function.at(widths)

    def total(self, name: str, layers: float, beside: float) -> float:
        """The cost whose layers add up to ``layers``."""
        sums = self._sums.get(name)
        return beside if sums is None else beside + sums.finish(layers)
