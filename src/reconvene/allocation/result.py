"""What the solver hands on: widths, what they cost, and why every group is as wide as it is."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from reconvene.costs import text_of
from reconvene.utils.arrays import Widths
from reconvene.utils.notes import Note
from reconvene.utils.tables import Cell, smaller, text_table


@dataclass(frozen=True)
class AllocationRow:
    """One group: width before and after, what it loses (in the evaluator's unit), and why it is as wide as it is."""

    group: str
    dense: int
    width: int
    loss: float
    why: str


@dataclass(frozen=True, eq=False)
class Allocation:
    """Widths that keep every limit.

    ``costs``, ``limits`` and ``dense`` are in parameters, MACs, bytes and seconds.

    ``water_level``: the loss no group exceeds, rounding and refinement aside, in the evaluator's unit.
    """

    widths: Widths
    costs: dict[str, float]
    limits: dict[str, float]
    dense: dict[str, float]
    water_level: float
    rows: tuple[AllocationRow, ...]
    round_to: int
    finest: int
    """The step in which widths grew last: ``round_to``, or less where its multiples left the budget unused."""

    @property
    def notes(self) -> list[Note]:
        """What a reader of the widths should know."""
        if self.finest == self.round_to:
            return []
        text = (
            f"multiples of {self.round_to} left more than a tenth of the budget unused, so some widths grew in steps "
            f"of {self.finest}; round_to={self.round_to} keeps multiples"
        )
        return [Note(text, "round_to")]

    def __str__(self) -> str:
        foot = [
            f"{cost}: {text_of(cost, self.dense[cost])} -> {text_of(cost, value)} ({smaller(self.dense[cost], value)}"
            + (f" smaller, limit {text_of(cost, self.limits[cost])})" if cost in self.limits else " smaller)")
            for cost, value in self.costs.items()
        ]
        lines: list[list[Cell]] = [[r.group, r.dense, r.width, r.loss, r.why] for r in self.rows]
        title = f"allocation at water level {self.water_level:.4g}"
        return text_table(["group", "dense", "width", "loss", "why"], lines, title=title, foot=[*foot, *self.notes])

    def to_dict(self) -> dict[str, Any]:
        """Plain values only."""
        return {
            "water_level": self.water_level,
            "round_to": self.round_to,
            "finest": self.finest,
            "costs": self.costs,
            "limits": self.limits,
            "dense": self.dense,
            "groups": [
                {"group": r.group, "dense": r.dense, "width": r.width, "loss": r.loss, "why": r.why} for r in self.rows
            ],
        }

    def to_json(self) -> str:
        """``to_dict`` as JSON text."""
        return json.dumps(self.to_dict(), indent=2, allow_nan=False)
