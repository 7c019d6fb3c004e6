"""Deployment: export to a runtime's file format, run it there, verify it against PyTorch, and time it.

The four calls are written once; each runtime is one file that fills in a ``Runtime``, registered in ``registry``.
"""

from __future__ import annotations

from reconvene.deploy.benchmark import BenchData, measure_latency, time_variants
from reconvene.deploy.bundle import Bundled, write_bundle
from reconvene.deploy.bundle_description import check_bundle
from reconvene.deploy.exported import Exported
from reconvene.deploy.exporter import export, run_file
from reconvene.deploy.fidelity import Fidelity, Limits, verify_int8
from reconvene.deploy.layerwise import LayerNoise, layerwise_sqnr
from reconvene.deploy.measure import Measurement, measure
from reconvene.deploy.qat import QuantisationAware
from reconvene.deploy.results import BenchResult, BenchRow
from reconvene.deploy.runtimes.base import Runtime, Session
from reconvene.deploy.runtimes.registry import FORMATS, RUNTIMES, installed
from reconvene.deploy.verification import Verification, verify_export

__all__ = [
    "FORMATS",
    "RUNTIMES",
    "BenchData",
    "BenchResult",
    "BenchRow",
    "Bundled",
    "Exported",
    "Fidelity",
    "LayerNoise",
    "Limits",
    "Measurement",
    "QuantisationAware",
    "Runtime",
    "Session",
    "Verification",
    "check_bundle",
    "export",
    "installed",
    "layerwise_sqnr",
    "measure",
    "measure_latency",
    "run_file",
    "time_variants",
    "verify_export",
    "verify_int8",
    "write_bundle",
]
