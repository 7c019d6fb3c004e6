"""The rectifier: the smaller network, with a healthy initialization again (RLR, Resilient Layer Rectifier)."""

from __future__ import annotations

from reconvene.rectifier.calibration import calibration_batch, spread
from reconvene.rectifier.recalibrate import recalibrate
from reconvene.rectifier.reconstruct import reconstruct
from reconvene.rectifier.rectify import TRAINED_WAYS, WAYS, rectify
from reconvene.rectifier.report import RectifyReport, SpreadRow

__all__ = [
    "TRAINED_WAYS",
    "WAYS",
    "RectifyReport",
    "SpreadRow",
    "calibration_batch",
    "recalibrate",
    "reconstruct",
    "rectify",
    "spread",
]
