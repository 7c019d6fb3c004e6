"""The report: one self-contained HTML page about what was cut, why, and what it gained."""

from __future__ import annotations

from reconvene.pages.data import ReportData
from reconvene.pages.page import render, write_report

__all__ = ["ReportData", "render", "write_report"]
