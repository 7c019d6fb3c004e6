"""Costs by name, and their amounts as text."""

from __future__ import annotations

from reconvene.costs.activation_memory import PeakMemory
from reconvene.costs.base import Cost
from reconvene.costs.cost_file import JOULES, ChipCost, cost_file
from reconvene.costs.encrypted import ENCRYPTED_COSTS
from reconvene.costs.file_size import FileSize
from reconvene.costs.latency import Latency
from reconvene.costs.macs import Macs
from reconvene.costs.params import Params
from reconvene.costs.synops import SynapticEnergy, SynapticOperations
from reconvene.costs.unit import BYTES, COUNT, CYCLES, Unit
from reconvene.errors import UnknownNameError

COSTS: dict[str, Cost] = {cost.name: cost for cost in (Params(), Macs(), PeakMemory(), FileSize(), Latency())}
COSTS |= cost_file("bits").costs
COSTS |= {cost.name: cost for cost in (SynapticOperations(), SynapticEnergy())}
COSTS |= cost_file("speck").costs
COSTS |= {cost.name: cost for cost in ENCRYPTED_COSTS}
COSTS["cycles"] = ChipCost("cycles", "Cycles", CYCLES, "Clock cycles of one inference on the target: 2x, 1.2M.")
COSTS["energy"] = ChipCost("energy", "Energy", JOULES, "Joules of one inference on the target: 2x, 70uJ.")
COSTS["sram"] = ChipCost("sram", "SRAM", BYTES, "Bytes of SRAM of one inference on the target: 2x, 128KiB.")
COSTS["flash"] = ChipCost("flash", "Flash", BYTES, "Bytes of flash that the compiled file takes on the target: 200KiB.")
"""What a budget can limit. A cost of one's own is added by ``COSTS["joules"] = Joules()``."""


def cost_named(name: str) -> Cost:
    """Look a cost up. Raises UnknownNameError with the names there are."""
    if name not in COSTS:
        raise UnknownNameError("cost", name, COSTS)
    return COSTS[name]


def listed_costs() -> dict[str, Cost]:
    """The costs that every plan tells, by name."""
    return {name: cost for name, cost in COSTS.items() if cost.listed}


# A plan may come from a program that knows more costs than this one: its amounts are then shown as plain numbers.


def label_of(name: str) -> str:
    """The name of a cost in tables and on pages."""
    return COSTS[name].label if name in COSTS else name


def text_of(name: str, value: float) -> str:
    """An amount of a cost with all its digits, for terminals and logs: ``1,234,567``, ``4.213 ms``."""
    return _unit(name).text(value)


def short_text(name: str, value: float) -> str:
    """An amount of a cost with three digits, for pages: ``14.7 M``, ``313 MMACs``, ``3.5 MiB``, ``4.21 ms``."""
    return _unit(name).short(value)


def _unit(name: str) -> Unit:
    return COSTS[name].unit if name in COSTS else COUNT
