"""The report of a rectification: the ratio of activation spread, small over dense, for every layer."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass
from typing import Any

from reconvene.utils.tables import Cell, text_table

HEALTHY = (0.8, 1.25)


@dataclass(frozen=True)
class SpreadRow:
    """One layer or norm. Spreads are standard deviations of its output on the calibration batch; ``None``: unknown.

    ``dense``: in the dense network. ``before``, ``after``: in the smaller one, before and after rectification.
    ``action``: what was done to it and, where nothing was, why.
    """

    layer: str
    kind: str
    touched: bool
    action: str
    dense: float | None = None
    before: float | None = None
    after: float | None = None

    @property
    def ratio(self) -> float | None:
        """Spread now over dense spread; ``None`` where either is missing or the dense layer is silent."""
        if self.after is None or not self.dense:
            return None
        return self.after / self.dense


@dataclass(frozen=True)
class RectifyReport:
    """What ``rectify`` did, layer by layer; ``draw``: which draw of fresh weights stayed. Prints as a table."""

    how: str
    seed: int
    rows: tuple[SpreadRow, ...]
    draw: int = 0

    @property
    def worst(self) -> float:
        """The largest ``|log ratio|``: 0 when every layer spreads as in the dense network, inf when one is dead."""
        ratios = [row.ratio for row in self.rows if row.ratio is not None]
        return max((abs(math.log(ratio)) if ratio > 0 else math.inf for ratio in ratios), default=0.0)

    @property
    def outside(self) -> tuple[SpreadRow, ...]:
        """Layers whose ratio is not within [0.8, 1.25]."""
        return tuple(r for r in self.rows if r.ratio is not None and not HEALTHY[0] <= r.ratio <= HEALTHY[1])

    def __str__(self) -> str:
        lines: list[list[Cell]] = [[r.layer, r.kind, r.action, r.dense, r.before, r.after, r.ratio] for r in self.rows]
        measured = sum(row.ratio is not None for row in self.rows)
        low, high = HEALTHY
        return text_table(
            ["layer", "kind", "action", "dense", "before", "after", "ratio"],
            lines,
            title=f"rectify {self.how}, seed {self.seed}: activation spread, small over dense",
            foot=[f"{measured - len(self.outside)} of {measured} measured layers within [{low}, {high}]"],
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values only."""
        rows = [dataclasses.asdict(row) | {"ratio": row.ratio} for row in self.rows]
        return {
            "how": self.how,
            "seed": self.seed,
            "draw": self.draw,
            "healthy": list(HEALTHY),
            "outside": len(self.outside),
            "rows": rows,
        }

    def to_json(self) -> str:
        """``to_dict`` as JSON text."""
        return json.dumps(self.to_dict(), indent=2, allow_nan=False)
