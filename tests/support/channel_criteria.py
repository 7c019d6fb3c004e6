"""Criteria of channels by what networks they can score."""

from __future__ import annotations

from reconvene.criteria import CHANNEL_CRITERIA

WITHOUT_SPIKES = sorted(set(CHANNEL_CRITERIA) - {"activity", "spike_rate"})
"""Criteria of any network; the others score spiking ones."""
