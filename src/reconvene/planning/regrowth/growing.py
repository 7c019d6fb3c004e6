"""Masks for a training run: which budget they keep, and how."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from reconvene.planning.regrowth.regrowth import RAMP, Regrowth, check_shares
from reconvene.surgery import Plan


@dataclass(frozen=True)
class GoalGrowing:
    """Let a network in training come to the widths of a plan; see ``Regrowth`` for ``regrow`` and ``ramp``."""

    goal: Plan
    regrow: float = 0.1
    ramp: tuple[float, float] = RAMP

    def __post_init__(self) -> None:
        check_shares(self.regrow, self.ramp)

    def masked(self, network: nn.Module, images: Tensor) -> Regrowth:
        """Masks on ``network`` itself."""
        return Regrowth(network, images.contiguous(), self.goal, regrow=self.regrow, ramp=self.ramp, in_place=True)

    def to_dict(self) -> dict[str, Any]:
        """What makes this way this one, in plain JSON types."""
        widths = {row.name: row.width for row in self.goal.rows}
        return {"widths": widths, "regrow": self.regrow, "ramp": list(self.ramp)}
