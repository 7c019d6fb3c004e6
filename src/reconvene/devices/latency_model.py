"""What layers take at given widths, by a profile: the sum of measured points, before whole networks correct it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from reconvene.devices.lookup_table import SHORTEST, LatencyTable
from reconvene.devices.on_device.layer_spec import LayerJob, LayerSpec
from reconvene.devices.on_device.sample_widths import weight_bytes
from reconvene.devices.profile import Profile
from reconvene.utils.arrays import Floats, Ints


class Clock:
    """Layers of one network: ``specs``, in the order of the calls, none wider than its ``tops`` (in, out)."""

    def __init__(self, profile: Profile, specs: Sequence[LayerSpec], tops: Sequence[tuple[int, int]]) -> None:
        wide = {spec: LayerJob(spec, *top) for spec, top in zip(specs, tops, strict=True)}
        table_by_spec = profile.tables(list(wide.values()))
        tables = [table_by_spec[spec] for spec in specs]
        self.fixed = profile.overhead["call"] + profile.overhead["node"] * len(specs)
        """Seconds beside the layers' own."""
        self._lookup = _Lookup(tables, tops)
        self._narrow = _lookups([table.narrow for table in tables], tops)
        self._odd = _lookups([table.odd for table in tables], tops)
        self._far = _lookups([table.uncached for table in tables], tops)
        self._block = np.array([table.block_in for table in tables], dtype=np.int64)
        self._align = np.array([table.align for table in tables], dtype=np.int64)
        item = 1 if profile.precision == "int8" else 4
        self._weights = np.array([weight_bytes(spec, (1, 1), item) for spec in specs], dtype=np.float64)
        self._memory = profile.far_share()

    def times(self, into: Ints, out: Ints, *, exact: bool = True) -> Floats:
        """Seconds of every layer; unless ``exact``, as if every width cost as little as the next aligned one."""
        times = self._lookup.at(into, out)
        for rows, narrow in self._narrow:
            narrow_times = narrow.at(into[rows], out[rows])
            narrow_times = (
                narrow_times if exact else np.minimum(narrow_times, times[rows])
            )  # else it would fall where the first block is whole
            times[rows] = np.where(into[rows] < self._block[rows], narrow_times, times[rows])
        for rows, odd in self._odd if exact else ():
            slower = np.maximum(odd.at(into[rows], out[rows]), times[rows])
            times[rows] = np.where(into[rows] % self._align[rows] > 0, slower, times[rows])
        for rows, uncached in self._far:
            share = np.interp(float((self._weights * into * out).sum()), *self._memory)
            times[rows] += share * uncached.at(into[rows], out[rows])
        return times


@lru_cache(maxsize=8)  # a budget asks one profile many times
def correction(profile: Profile) -> tuple[Floats, Floats]:
    """Seconds of whole networks: by ``Clock`` (the sum of the layers), ascending, and as measured.

    Between two of them a network is corrected on the straight line between both logarithms, outside by the factor of
    the nearest; so a network that is longer by the clock stays longer. Where no networks were measured, all layers in
    one graph give one factor.
    """
    pairs = []
    for network in profile.networks:
        numbers, into, out = np.array(network["layers"], dtype=np.int64).T
        tops = [(int(a), int(b)) for a, b in zip(into, out, strict=True)]
        clock = Clock(profile, [profile.layers[number].spec for number in numbers], tops)
        pairs.append((max(clock.fixed + float(clock.times(into, out).sum()), SHORTEST), network["seconds"]))
    by_clock, measured_seconds = np.array(sorted(pairs or [(1.0, profile.together())]), dtype=np.float64).T
    return by_clock, np.maximum.accumulate(measured_seconds)


class _Lookup:
    """All tables in flat arrays, so that a network is one gather."""

    def __init__(self, tables: Sequence[LatencyTable], tops: Sequence[tuple[int, int]]) -> None:
        self._row_start, self._rows = _flat([t.row_positions(top) for t, (top, _) in zip(tables, tops, strict=True)])
        single = [len(t.outs) == 1 for t in tables]
        columns = [
            np.zeros(top + 1) if is_single else t.column_positions(top).astype(np.float64)
            for t, (_, top), is_single in zip(tables, tops, single, strict=True)
        ]
        self._column_start, self._columns = _flat(columns)
        grids = [
            t.values if is_single else t.expanded(top)
            for t, (_, top), is_single in zip(tables, tops, single, strict=True)
        ]
        self._width = np.array([grid.shape[1] for grid in grids], dtype=np.int64)
        self._last = np.array([max(len(grid) - 2, 0) for grid in grids], dtype=np.int64)
        self._height = np.array([len(grid) for grid in grids], dtype=np.int64)
        self._grid_start, self._grid = _flat([grid.reshape(-1) for grid in grids])

    def at(self, into: Ints, out: Ints) -> Floats:
        """Seconds of every site, widths taken as aligned."""
        position = self._rows[self._row_start + into]
        row = np.clip(position.astype(np.int64), 0, self._last)
        share = np.where(self._height > 1, position - row, 0.0)
        first = self._grid_start + row * self._width + self._columns[self._column_start + out].astype(np.int64)
        low = self._grid[first]
        high = self._grid[np.where(self._height > 1, first + self._width, first)]
        times: Floats = np.maximum(low + share * (high - low), SHORTEST)
        return times


def _lookups(tables: Sequence[LatencyTable | None], tops: Sequence[tuple[int, int]]) -> list[tuple[Ints, _Lookup]]:
    """The layers that have such a table, and all of these tables; nothing where no layer has one."""
    rows = np.flatnonzero([table is not None for table in tables])
    present_tables = [table for table in tables if table is not None]
    return [(rows, _Lookup(present_tables, [tops[int(row)] for row in rows]))] if present_tables else []


def _flat(parts: list[Floats]) -> tuple[Ints, Floats]:
    starts = np.cumsum([0, *[len(part) for part in parts[:-1]]], dtype=np.int64)
    return starts, np.concatenate(parts)
