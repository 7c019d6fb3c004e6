"""The quantiser: weights as whole numbers of a few bits, as the runtimes that compute with them have it."""

from __future__ import annotations

from reconvene.quantiser.fake import fake_quantised
from reconvene.quantiser.steps import to_steps
from reconvene.quantiser.uniform import WIDEST_SEARCHED, QuantisedWeight, largest, noise_ratio, quantise

__all__ = ["WIDEST_SEARCHED", "QuantisedWeight", "fake_quantised", "largest", "noise_ratio", "quantise", "to_steps"]
