"""Measured points of one layer as a table over widths: steps where the runtime has steps, straight lines between."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from reconvene.devices.on_device.layer_spec import MeasuredLayer, Timing
from reconvene.utils.arrays import Floats, Ints

# A line through two narrow layers may fall below zero further down; no layer is faster than this.
SHORTEST = 2e-7


@dataclass(frozen=True, eq=False)
class LatencyTable:
    """Seconds at ``[ins, outs]``; widths between are computed as the runtime does, in whole blocks.

    ``ins`` and ``outs`` are ascending widths; ``values[i, j]`` never falls along either. ``odd``: the same for input
    widths that are no multiple of ``align``, where the runtime takes another road, ``narrow`` for those below one
    block, where it may take a third; ``uncached``: extra seconds where weights are read from memory; each ``None``
    where there is none.
    """

    ins: Ints
    outs: Ints
    values: Floats
    block_in: int
    block_out: int
    align: int = 1
    odd: LatencyTable | None = None
    uncached: LatencyTable | None = None
    narrow: LatencyTable | None = None

    @classmethod
    def of(cls, layer: MeasuredLayer, steps: Mapping[str, int]) -> LatencyTable:
        """The table of a measured layer."""
        points, layer_kind = layer.points, layer.spec.kind
        align = steps["align"] if layer_kind in ("conv", "depthwise") else 1
        regular = [p for p in points if p[0] % align == 0 or len({q[0] for q in points}) == 1]
        odd = [p for p in points if p[0] % align] if len(regular) < len(points) else []
        has_one_width = layer.spec.has_one_width
        block_in = steps["out"] if layer_kind == "depthwise" else 1 if has_one_width else steps["in"]
        block_out = 1 if has_one_width else steps["out"]
        thin = [p for p in regular if p[0] < block_in] if layer_kind == "conv" else []
        # Two widths at least: between and beside them time is on a line.
        has_narrow = len({p[0] for p in thin}) > 1 and len(thin) < len(regular)
        narrow = cls._grid(thin, 1, block_out) if has_narrow else None
        regular_table = cls._grid([p for p in regular if narrow is None or p[0] >= block_in], block_in, block_out)
        odd_table = cls._grid(odd, 1, 1) if odd else None
        uncached = cls._grid([(0, 1, 0.0), *layer.far] if has_one_width else layer.far, 1, 1) if layer.far else None
        return cls(
            regular_table.ins,
            regular_table.outs,
            regular_table.values,
            block_in,
            regular_table.block_out,
            align,
            odd_table,
            uncached,
            narrow,
        )

    @classmethod
    def _grid(cls, points: Sequence[Timing], block_in: int, block_out: int) -> LatencyTable:
        ins, outs = sorted({p[0] for p in points}), sorted({p[1] for p in points})
        seconds_at = {(a, b): seconds for a, b, seconds in points}
        if len(seconds_at) < len(ins) * len(outs):  # widths out follow widths in, as in a depthwise convolution
            outs = [1]
            seconds_at = {(a, 1): seconds for a, _, seconds in points}
        values = np.array([[seconds_at[a, b] for b in outs] for a in ins], dtype=np.float64)
        values = np.maximum.accumulate(np.maximum.accumulate(values, axis=0), axis=1)
        return cls(np.array(ins, np.int64), np.array(outs, np.int64), values, block_in, block_out)

    def row_positions(self, top: int) -> Floats:
        """Where every input width ``0 .. top`` lies between the rows, as a fractional row."""
        widths = np.arange(top + 1)
        # With no points below one block of their own, such widths are on the line of the first two.
        in_blocks = widths > self.block_in if self.narrow is None else widths > 0
        block_widths = np.where(in_blocks, _up(widths, self.block_in), widths)
        return _fraction(block_widths, self.ins)

    def column_positions(self, top: int) -> Ints:
        """Which column of ``expanded`` every output width ``0 .. top`` falls on."""
        return _up(np.arange(top + 1), self.block_out) // self.block_out

    def expanded(self, top: int) -> Floats:
        """Values with a column for every block of output widths up to ``top``, ``[ins, blocks + 1]``; column 0 is 0.

        Between measured columns time grows as it did within the first blocks that were all measured: runtimes work on
        several blocks at once, and the last, smaller set of them costs more than its share.
        """
        blocks = -(-top // self.block_out)
        widths = np.arange(blocks + 1) * self.block_out
        rows = np.stack([_extended(widths, self.outs, row) for row in self.values])
        if self.block_out > 1:
            rows += self._ripple(widths, rows)
        rows[:, 0] = 0.0
        rows[:, 1:] = np.maximum.accumulate(np.maximum(rows[:, 1:], SHORTEST), axis=1)
        return rows

    def _ripple(self, widths: Ints, rows: Floats) -> Floats:
        """How far above the line between sets of four blocks the blocks in between lie."""
        period = 4 * self.block_out
        pattern_widths = [w for w in range(period, 2 * period + 1, self.block_out)]
        if not set(pattern_widths) <= set(self.outs.tolist()):
            return np.zeros_like(rows)
        columns = [int(np.searchsorted(self.outs, w)) for w in pattern_widths]
        cell = self.values[:, columns]
        line = np.linspace(0, 1, len(pattern_widths))
        above = cell - (cell[:, :1] * (1 - line) + cell[:, -1:] * line)
        inside = ~np.isin(widths, self.outs) & (widths > 2 * period)
        ripple: Floats = np.where(inside, above[:, (widths % period) // self.block_out], 0.0)
        return ripple

    def seconds(self, into: int, out: int) -> float:
        """Seconds at one pair of widths."""
        if self.odd is not None and into % self.align:
            return self.odd.seconds(into, out)
        if self.narrow is not None and into < self.block_in:
            return self.narrow.seconds(into, out)
        column = self.expanded(out)[:, -1] if len(self.outs) > 1 else self.values[:, 0]
        return float(_between(column, self.row_positions(into)[-1]))


def _up(widths: Any, block: int) -> Ints:
    return np.asarray(-(-widths // block) * block, dtype=np.int64)


def _fraction(widths: Ints, grid: Ints) -> Floats:
    """Fractional index of every width in ``grid``; below and above it, on the line of its first or last two points."""
    if len(grid) == 1:
        return np.zeros(len(widths))
    lower = np.clip(np.searchsorted(grid, widths, side="right") - 1, 0, len(grid) - 2)
    return np.asarray(lower + (widths - grid[lower]) / (grid[lower + 1] - grid[lower]), dtype=np.float64)


def _between(column: Floats, position: float) -> float:
    if len(column) == 1:
        return float(column[0])
    lower = int(np.clip(np.floor(position), 0, len(column) - 2))
    return max(SHORTEST, float(column[lower] + (position - lower) * (column[lower + 1] - column[lower])))


def _extended(widths: Ints, grid: Ints, values: Floats) -> Floats:
    if len(grid) == 1:
        return np.full(len(widths), values[0])
    position = _fraction(widths, grid)
    lower = np.clip(np.floor(position).astype(np.int64), 0, len(grid) - 2)
    return np.asarray(values[lower] + (position - lower) * (values[lower + 1] - values[lower]), dtype=np.float64)
