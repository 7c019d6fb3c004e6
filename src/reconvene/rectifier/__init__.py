"""The rectifier: the smaller network, with a healthy initialization again (RLR, Resilient Layer Rectifier)."""

from __future__ import annotations

from reconvene.rectifier.calibration import calibration_batch, spread
from reconvene.rectifier.rectify import WAYS, rectify
from reconvene.rectifier.report import RectifyReport, SpreadRow

__all__ = ["WAYS", "RectifyReport", "SpreadRow", "calibration_batch", "rectify", "spread"]
