"""What an evaluator hands on: one curve per prunable group, and a reason for each group that cannot be pruned."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np

from reconvene.utils.arrays import Floats
from reconvene.utils.bar_chart import Bar, BarChart
from reconvene.utils.frames import Frame, Plottable
from reconvene.utils.tables import Cell


@dataclass(frozen=True, eq=False)
class Curve:
    """What the network loses when one group is cut.

    - ``loss[k]`` for ``k`` kept channels, ``[width + 1]``: nonincreasing, ``loss[0] == inf``, ``loss[width] == 0``.
      Its unit is the evaluator's (``Sensitivity.unit``) and the same for all groups.
    - ``channel_score[c]``, ``[width]``: saliency summed over every weight channel ``c`` touches; keep the highest
      first. None where no criterion was asked for: the first channels are then kept.
    - ``density``: density, at the target level, of the weights the group touches; None where no levels were followed.
    - ``implied``: the width the criterion implies at the target level; None likewise.
    - ``sensitivity``: the loss when the group keeps the share ``sqrt(target density)`` of its channels, the share a
      network cut evenly would keep. (At ``implied`` the `density` evaluator would say the same number for every
      group.)
    """

    group: str
    width: int
    loss: Floats
    channel_score: Floats | None
    density: float | None
    implied: int | None
    sensitivity: float


@dataclass(frozen=True)
class Pinned:
    """A group nothing can prune: no curve and no number, only the reason."""

    group: str
    width: int
    reason: str


@dataclass(frozen=True)
class SensitivityRow:
    """One line of the table: ``None`` where a group is pinned, or where nothing was computed since nothing reads it."""

    group: str
    width: int
    prunable: bool
    density: float | None
    implied: int | None
    sensitivity: float | None
    reason: str | None


@dataclass(frozen=True, eq=False)
class Sensitivity(Plottable):
    """All curves, in the order of ``structure.prunable``, and what could not be pruned. Prints as a table.

    ``criterion`` is empty where none was asked for. ``adds_up``: widths are best where the sum of squared losses is
    least, not where the worst loss is.
    """

    evaluator: str
    criterion: str
    unit: str
    target: float
    curves: tuple[Curve, ...]
    pinned: tuple[Pinned, ...] = ()
    adds_up: bool = False

    @property
    def rows(self) -> tuple[SensitivityRow, ...]:
        """Prunable groups first, then pinned ones with their reasons."""
        prunable_rows = (
            SensitivityRow(c.group, c.width, True, c.density, c.implied, c.sensitivity, None) for c in self.curves
        )
        pinned_rows = (SensitivityRow(p.group, p.width, False, None, None, None, p.reason) for p in self.pinned)
        return (*prunable_rows, *pinned_rows)

    def frame(self) -> Frame:
        """The table: a row a group, pinned ones last."""
        followed = any(curve.density is not None for curve in self.curves)
        header = ["group", "width", *(["density", "implied width"] if followed else []), "sensitivity", "prunable"]
        lines: list[list[Cell]] = [
            [
                *(row.group, row.width),
                *((row.density, row.implied) if followed else ()),
                *(row.sensitivity, "yes" if row.prunable else f"no: {row.reason}"),
            ]
            for row in self.rows
        ]
        by = f"{self.criterion} at density" if self.criterion else "at density"
        title = f"sensitivity by {self.evaluator} [{self.unit}], {by} {self.target:.4g}"
        return Frame(tuple(header), lines, title)

    def __str__(self) -> str:
        return str(self.frame())

    def __repr__(self) -> str:
        return f"Sensitivity({self.evaluator!r}, {len(self.curves)} groups, {len(self.pinned)} pinned)"

    def plot(self) -> BarChart:
        """A bar a group, as long as the group is sensitive, from input to output."""
        bars = [Bar(curve.group, curve.sensitivity, f"{curve.sensitivity:.3g}") for curve in self.curves]
        return BarChart(f"sensitivity by {self.evaluator}, {self.unit}", bars)

    def to_dict(self) -> dict[str, Any]:
        """Plain values only; ``loss[0]``, which is infinite, is ``None``."""
        return {
            "evaluator": self.evaluator,
            "criterion": self.criterion,
            "unit": self.unit,
            "target": self.target,
            "groups": [
                {
                    "group": c.group,
                    "width": c.width,
                    "prunable": True,
                    "density": c.density,
                    "implied": c.implied,
                    "sensitivity": c.sensitivity,
                    "loss": [float(v) if np.isfinite(v) else None for v in c.loss],
                }
                for c in self.curves
            ]
            + [{"group": p.group, "width": p.width, "prunable": False, "reason": p.reason} for p in self.pinned],
        }

    def to_json(self) -> str:
        """``to_dict`` as JSON text."""
        return json.dumps(self.to_dict(), indent=2, allow_nan=False)


def isotonic(values: Floats, *, weights: Floats | None = None) -> Floats:
    """The nondecreasing sequence nearest to ``values`` in (weighted) least squares: pool adjacent violators."""
    weight = np.ones(len(values)) if weights is None else weights
    means: list[float] = []
    masses: list[float] = []
    counts: list[int] = []
    for value, mass in zip(values.tolist(), weight.tolist(), strict=True):
        means.append(value)
        masses.append(mass)
        counts.append(1)
        while len(means) > 1 and means[-2] > means[-1]:
            total = masses[-2] + masses[-1]
            means[-2:] = [(means[-2] * masses[-2] + means[-1] * masses[-1]) / total]
            masses[-2:] = [total]
            counts[-2:] = [counts[-2] + counts[-1]]
    return np.repeat(np.asarray(means, dtype=np.float64), counts)
