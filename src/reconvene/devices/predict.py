"""Predicts the latency of a network at any widths from a device profile; one prediction takes microseconds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp, log

import numpy as np

from reconvene.costs.sizes import Products, Sizes
from reconvene.devices.latency_model import Clock, correction
from reconvene.devices.lookup_table import SHORTEST
from reconvene.devices.profile import Profile
from reconvene.devices.runtime_layers import LayerSite, WidthProduct, sites
from reconvene.structure import Structure
from reconvene.utils.arrays import Floats, Ints


@dataclass(frozen=True)
class SiteTime:
    """What one layer is predicted to take: ``into`` and ``out`` channels, seconds."""

    owner: str
    operator: str
    into: int
    out: int
    seconds: float


class Predictor:
    """Predicts one forward pass of a network at any widths, from the profile of a device."""

    def __init__(self, structure: Structure, profile: Profile) -> None:
        self.profile = profile
        self.sites = sites(structure)
        self._clock = Clock(profile, [site.spec for site in self.sites], [site.dense for site in self.sites])
        by_clock, measured_seconds = correction(profile)
        self._lengths, self._factors = np.log(by_clock), np.log(measured_seconds / by_clock)
        self._channels = ChannelCounts(structure, self.sites)

    @property
    def approximate(self) -> list[str]:
        """Operators that no probe measures, for which a similar one of the same size was taken."""
        return sorted({site.approximate for site in self.sites if site.approximate})

    def seconds(self, widths: Ints) -> float:
        """Seconds of one forward pass at these widths, what unaligned widths cost included.

        Args:
            widths: kept channels per prunable group, int64 ``[groups]``.
        """
        return self._corrected(self._times(widths, exact=True))[0]

    def floor(self, widths: Ints) -> float:
        """Seconds if every width cost as little as the next aligned one: never falls when a width grows."""
        return self._corrected(self._times(widths, exact=False))[0]

    def breakdown(self, widths: Ints) -> list[SiteTime]:
        """Seconds of every layer."""
        into, out = self._channels.at(widths)
        times = self._times(widths, exact=True)
        factor = self._corrected(times)[1]
        return [
            SiteTime(site.owner, site.spec.operator or site.spec.kind, int(a), int(b), factor * float(seconds))
            for site, a, b, seconds in zip(self.sites, into, out, times, strict=True)
        ]

    def _times(self, widths: Ints, *, exact: bool) -> Floats:
        return self._clock.times(*self._channels.at(widths), exact=exact)

    def _corrected(self, times: Floats) -> tuple[float, float]:
        """Seconds of the whole network, and the factor that makes its layers add up to them."""
        total = max(self._clock.fixed + float(times.sum()), SHORTEST)
        factor = exp(float(np.interp(log(total), self._lengths, self._factors)))
        return factor * total, factor


class ChannelCounts:
    """How many channels go into and out of every site at any widths of the network's groups."""

    def __init__(self, structure: Structure, runtime_sites: Sequence[LayerSite]) -> None:
        self._sizes = Sizes(structure)
        self._into = self._products([site.into for site in runtime_sites])
        self._out = self._products([site.out for site in runtime_sites])

    def at(self, widths: Ints) -> tuple[Ints, Ints]:
        """Channels in and out, each int64 ``[sites]``, rounded up to whole ones."""
        sizes = self._sizes.at(widths)
        # Rounded first: the factor is the inverse of a whole number, and 64 / 3 * 3 is not 64.
        into, out = (
            np.ceil(np.round(products.terms(sizes) * factor, 6)).astype(np.int64)
            for products, factor in (self._into, self._out)
        )
        return into, out

    def _products(self, amounts: list[WidthProduct]) -> tuple[Products, Floats]:
        factor = np.array([amount.factor for amount in amounts], dtype=np.float64)
        return Products(self._sizes, [amount.dims for amount in amounts]), factor
