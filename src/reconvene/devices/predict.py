"""From a device profile to the latency of any widths of one network, in microseconds of work."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from reconvene.allocation.costs import Products, Sizes
from reconvene.devices.points import weight_bytes
from reconvene.devices.profile import Profile
from reconvene.devices.sites import Amount, jobs, sites
from reconvene.devices.table import SHORTEST, Floats, Table
from reconvene.structure import Structure

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class SiteTime:
    """What one layer is predicted to take: ``into`` and ``out`` channels, seconds."""

    owner: str
    what: str
    into: int
    out: int
    seconds: float


class Predictor:
    """Predicts one forward pass of a network at any widths, from the profile of a device.

    ``scale`` multiplies every prediction: what whole networks on this device took over what was predicted for them.
    """

    def __init__(self, structure: Structure, profile: Profile, *, scale: float = 1.0) -> None:
        self.profile, self.scale = profile, scale * profile.together()
        self.sites = sites(structure)
        found = profile.tables(jobs(self.sites))
        self._tables = [found[site.key] for site in self.sites]
        self._sizes = Sizes(structure)
        self._into = _Amounts(self._sizes, [site.into for site in self.sites])
        self._out = _Amounts(self._sizes, [site.out for site in self.sites])
        self._fixed = profile.overhead["call"] + profile.overhead["node"] * len(self.sites)
        dense = [site.dense for site in self.sites]
        self._lookup = _Lookup(self._tables, dense)
        self._odd = np.flatnonzero([table.odd is not None for table in self._tables])
        odd = [table.odd for table in self._tables if table.odd is not None]
        self._odd_lookup = _Lookup(odd, [dense[number] for number in self._odd]) if odd else None
        self._align = np.array([table.align for table in self._tables], dtype=np.int64)
        item = 1 if profile.precision == "int8" else 4
        self._weights = np.array([weight_bytes(site.job, (1, 1), item) for site in self.sites], dtype=np.float64)
        self._far = np.flatnonzero([table.far is not None for table in self._tables])
        far = [table.far for table in self._tables if table.far is not None]
        self._far_lookup = _Lookup(far, [dense[number] for number in self._far]) if far else None
        self._memory = profile.far_share()

    @property
    def approximate(self) -> list[str]:
        """Operators that no probe measures, for which another of the same size was taken."""
        return sorted({site.approximate for site in self.sites if site.approximate})

    def seconds(self, widths: Ints) -> float:
        """Seconds of one forward pass at these widths, what unaligned widths cost included.

        Args:
            widths: kept channels per prunable group, int64 ``[groups]``.
        """
        return self.scale * (self._fixed + float(self._times(widths, exact=True).sum()))

    def floor(self, widths: Ints) -> float:
        """Seconds if every width cost as little as the next aligned one: never falls when a width grows."""
        return self.scale * (self._fixed + float(self._times(widths, exact=False).sum()))

    def breakdown(self, widths: Ints) -> list[SiteTime]:
        """Seconds of every layer."""
        sizes = self._sizes.at(widths)
        into, out, times = self._into.at(sizes), self._out.at(sizes), self._times(widths, exact=True)
        return [
            SiteTime(site.owner, site.job.get("op", site.job["kind"]), int(a), int(b), self.scale * float(seconds))
            for site, a, b, seconds in zip(self.sites, into, out, times, strict=True)
        ]

    def _times(self, widths: Ints, *, exact: bool) -> Floats:
        sizes = self._sizes.at(widths)
        into, out = self._into.at(sizes), self._out.at(sizes)
        times = self._lookup.at(into, out)
        if exact and self._odd_lookup is not None:
            rows = self._odd
            slower = np.maximum(self._odd_lookup.at(into[rows], out[rows]), times[rows])
            times[rows] = np.where(into[rows] % self._align[rows] > 0, slower, times[rows])
        if self._far_lookup is not None:
            share = np.interp(float((self._weights * into * out).sum()), *self._memory)
            times[self._far] += share * self._far_lookup.at(into[self._far], out[self._far])
        return times


class _Amounts:
    """One number per site, rounded up to whole channels."""

    def __init__(self, sizes: Sizes, amounts: list[Amount]) -> None:
        self._products = Products(sizes, [amount.dims for amount in amounts])
        self._factor = np.array([amount.factor for amount in amounts], dtype=np.float64)

    def at(self, sizes: Ints) -> Ints:
        # Rounded first: the factor is the inverse of a whole number, and 64 / 3 * 3 is not 64.
        return np.ceil(np.round(self._products.terms(sizes) * self._factor, 6)).astype(np.int64)


class _Lookup:
    """All tables in flat arrays, so that a network is one gather."""

    def __init__(self, tables: list[Table], dense: list[tuple[int, int]]) -> None:
        self._row_start, self._rows = _flat([t.row_positions(top) for t, (top, _) in zip(tables, dense, strict=True)])
        single = [len(t.outs) == 1 for t in tables]
        columns = [
            np.zeros(top + 1) if one else t.column_positions(top).astype(np.float64)
            for t, (_, top), one in zip(tables, dense, single, strict=True)
        ]
        self._column_start, self._columns = _flat(columns)
        grids = [t.values if one else t.expanded(top) for t, (_, top), one in zip(tables, dense, single, strict=True)]
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


def _flat(parts: list[Floats]) -> tuple[Ints, Floats]:
    starts = np.cumsum([0, *[len(part) for part in parts[:-1]]], dtype=np.int64)
    return starts, np.concatenate(parts)
