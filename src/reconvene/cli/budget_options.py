"""Options that say how small a network must be, and what the limits are about."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, make_dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from tyro.conf import arg

from reconvene.cli.command import UsageError, names_in
from reconvene.costs import COSTS, Budget, Cost

HOW_SMALL, ABOUT, SPECIAL = "how small", "what a limit is about", "limits of special networks and targets"
"""Headings of the help, in this order."""


def _limit_options(heading: str, costs: Iterable[Cost]) -> type:
    """An option for each of these costs."""
    options = [
        (cost.name, Annotated[str | None, arg(metavar="LIMIT", help=cost.meaning)], field(default=None))
        for cost in costs
    ]
    return make_dataclass("CostLimits", options, kw_only=True, namespace={"heading": heading})


def _concerns_all(cost: Cost) -> bool:
    return cost.listed if cost.every_network is None else cost.every_network


if TYPE_CHECKING:

    class CostLimits:
        """Limits by cost."""

    class SpecialLimits:
        """Limits by cost of special networks and targets; those that were added from outside among them."""

else:
    CostLimits = _limit_options(HOW_SMALL, filter(_concerns_all, COSTS.values()))
    SpecialLimits = _limit_options(SPECIAL, (cost for cost in COSTS.values() if not _concerns_all(cost)))


@dataclass(kw_only=True)
class CostOptions(CostLimits, SpecialLimits):
    """Options that say how small."""

    heading: ClassVar[str] = ABOUT

    target: Annotated[str | None, arg(metavar="CHIP")] = None
    """Chip that --cycles, --energy, --sram and --flash are about (roofline: --latency): mpic, ne16, ethos-u55-128,
    roofline, or a cost file."""

    def budget(self, *, default: dict[str, str] | None = None) -> Budget:
        """The budget asked for, or ``default`` where none was. UsageError where there is neither."""
        limits = {name: getattr(self, name) for name in COSTS if getattr(self, name) is not None} or default
        if not limits:
            options = ", ".join(cost.option for cost in COSTS.values())
            raise UsageError(f"a budget is missing. Give at least one of {options}")
        return Budget(**limits)


@dataclass(kw_only=True)
class LimitsOptions(CostOptions):
    """Options that say how small, on whatever device."""

    size_of: Annotated[str, arg(metavar="FORMAT[,FORMAT]")] = ""
    """Formats whose exported files --size is about: onnx. By default it is about the artifact's weights file."""

    memory_of: Annotated[str | None, arg(metavar="RUNTIME")] = None
    """Whose plan of activations --peak-memory is about: onnx, executorch. By default PyTorch's own."""
    for_int8: bool = False
    """Let --latency, --size-of and --memory-of be about the network in int8."""

    def budget(self, *, default: dict[str, str] | None = None) -> Budget:
        """See CostOptions; UsageError for options that say what a limit is about that is not there."""
        limits = super().budget(default=default)
        if self.size_of and "size" not in limits:
            raise UsageError("--size-of says what --size is about. Give both, or leave it out")
        if self.memory_of is not None and "peak_memory" not in limits:
            raise UsageError("--memory-of says what --peak-memory is about. Give both, or leave it out")
        timed = "latency" in limits or getattr(self, "device", None) is not None
        if self.for_int8 and not timed and not self.size_of and self.memory_of is None:
            raise UsageError("--for-int8 says what --latency, --size-of or --memory-of is about. Give one of them too")
        return limits

    @property
    def target_options(self) -> dict[str, Any]:
        """Device and files, as ``Pruning`` takes them."""
        sizes = names_in(self.size_of)
        precision = "int8" if self.for_int8 else None
        device = getattr(self, "device", None)
        files = {"size_of": sizes, "memory_of": self.memory_of}
        return {"device": device, **files, "precision": precision, "chip": self.target}


@dataclass(kw_only=True)
class BudgetOptions(LimitsOptions):
    """Options that say how small, and on which device."""

    heading: ClassVar[str] = ABOUT

    device: Annotated[str | None, arg(metavar="PROFILE")] = None
    """Profile of the device that --latency is about: a file, a name, or here (this machine, the default). Without
    --latency the plan reports the predicted latency."""
