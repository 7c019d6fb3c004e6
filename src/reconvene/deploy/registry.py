"""Every runtime by name. A new one is a file of this folder and a line here."""

from __future__ import annotations

from reconvene.deploy.eager import EAGER
from reconvene.deploy.onnx import ONNX
from reconvene.deploy.runtime import Runtime
from reconvene.errors import UnknownNameError

RUNTIMES: dict[str, Runtime] = {runtime.name: runtime for runtime in (ONNX, EAGER)}
FORMATS: dict[str, Runtime] = {runtime.file_format: runtime for runtime in RUNTIMES.values() if runtime.file_format}


def runtime_named(name: str) -> Runtime:
    """Look a runtime up. Raises UnknownNameError with the names there are."""
    if name not in RUNTIMES:
        raise UnknownNameError("runtime", name, RUNTIMES)
    return RUNTIMES[name]


def format_named(name: str) -> Runtime:
    """Look up the runtime of a file format. Raises UnknownNameError with the names there are."""
    if name not in FORMATS:
        raise UnknownNameError("format", name, FORMATS)
    return FORMATS[name]
