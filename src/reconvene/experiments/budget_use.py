"""How much of its budget a run used, by the costs that were measured after training."""

from __future__ import annotations

from dataclasses import dataclass

from reconvene.costs import read_budget
from reconvene.devices import HERE
from reconvene.experiments.results import Record

_ROUNDING = 5e-4
"""A share that is shown as 100 % is no miss."""


@dataclass(frozen=True, order=True)
class BudgetUse:
    """Of one cost in a budget: what the network takes, as a ``share`` of the limit. Above 1 the budget is missed."""

    share: float
    cost: str

    @property
    def missed(self) -> bool:
        """Whether the network takes more than the budget allows."""
        return self.share > 1 + _ROUNDING

    def __str__(self) -> str:
        return f"{100 * self.share:.1f} % of {self.cost}" if self.missed else f"{100 * self.share:.1f} %"


def budget_use(record: Record) -> BudgetUse | None:
    """The cost that comes nearest to its limit, or exceeds it most; None where no cost of the budget was measured.

    Measured are parameters, multiply-accumulates, bytes and peak memory, and the latency in ONNX Runtime of a run whose
    budget is about this machine. Bytes of a network with bits are those of its packed weights.
    """
    uses = []
    for cost, value in record["run"]["budget"].items():
        costs = _measured(record, cost)
        if costs is not None:
            taken, dense = costs
            uses.append(BudgetUse(taken / read_budget(cost, value).of(dense), cost))
    return max(uses, default=None)


def _measured(record: Record, cost: str) -> tuple[float, float] | None:
    """A cost of the network that was trained, and of the dense one."""
    if cost == "latency":
        timed, on_this_machine = record.get("latency"), record["run"].get("device") in (None, HERE)
        return (timed["seconds"], timed["dense"]) if timed and on_this_machine else None
    if cost not in record or cost not in record["dense"]:
        return None
    packed = record.get("facts", {}).get("packed") if cost == "size" else None
    return float(packed or record[cost]), float(record["dense"][cost])
