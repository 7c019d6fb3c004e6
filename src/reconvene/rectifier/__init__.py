"""The rectifier: the smaller network, with a healthy initialization again (RLR, Resilient Layer Rectifier)."""

from __future__ import annotations

from reconvene.rectifier.calibration import calibration_batch, output_spread
from reconvene.rectifier.recalibrate import recalibrate
from reconvene.rectifier.reconstruct import reconstruct
from reconvene.rectifier.rectify import RECTIFICATIONS, TRAINED_WAYS, rectify
from reconvene.rectifier.report import RectifyReport, SpreadRow

__all__ = [
    "RECTIFICATIONS",
    "TRAINED_WAYS",
    "RectifyReport",
    "SpreadRow",
    "calibration_batch",
    "output_spread",
    "recalibrate",
    "reconstruct",
    "rectify",
]
