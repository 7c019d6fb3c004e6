"""Latency: declared here, predicted and measured for a device by ``planning``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from reconvene.costs.base import Cost, CostFunction, Network
from reconvene.costs.unit import SECONDS
from reconvene.errors import BudgetError

if TYPE_CHECKING:
    from reconvene.structure import Structure


class Latency(Cost):
    """Seconds of one forward pass on a device; which one, the target of a plan says."""

    name, label, plural, less, unit = "latency", "Latency", "seconds of an inference", "faster", SECONDS
    meaning = "Seconds of one inference: 5ms, 2x (twice as fast)."
    listed, every_network = False, True
    unknown = (
        "a latency is predicted from a device's profile, and none is given. rc.plan and rc.prune measure this machine, "
        "or take device='profile.json' (reconvene device profile)"
    )

    def bind(self, structure: Structure, network: Network | None) -> CostFunction:
        """Raises BudgetError: a device has to be named."""
        raise BudgetError(f"latency: {self.unknown}")
