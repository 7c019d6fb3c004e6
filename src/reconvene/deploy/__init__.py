"""Deployment: export to a runtime's file format, run it there, verify it against PyTorch, and time it.

The four calls are written once; each runtime is one file that fills in a ``Runtime``, registered in ``registry``.
"""

from __future__ import annotations

from reconvene.deploy.benchmark import bench, latency
from reconvene.deploy.bundle import Bundled, bundle
from reconvene.deploy.exporting import Exported, export, run
from reconvene.deploy.measure import Measurement, measure
from reconvene.deploy.registry import FORMATS, RUNTIMES
from reconvene.deploy.results import BenchResult, BenchRow
from reconvene.deploy.runtime import Runtime, Session
from reconvene.deploy.verification import Verification, verify

__all__ = [
    "FORMATS",
    "RUNTIMES",
    "BenchResult",
    "BenchRow",
    "Bundled",
    "Exported",
    "Measurement",
    "Runtime",
    "Session",
    "Verification",
    "bench",
    "bundle",
    "export",
    "latency",
    "measure",
    "run",
    "verify",
]
