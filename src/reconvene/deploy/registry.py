"""Every runtime by name. A new one is a file of this folder and a line here."""

from __future__ import annotations

from pathlib import Path

from reconvene.deploy.eager import EAGER
from reconvene.deploy.executorch import EXECUTORCH
from reconvene.deploy.litert import LITERT
from reconvene.deploy.ncnn import NCNN
from reconvene.deploy.onnx import ONNX
from reconvene.deploy.openvino import OPENVINO
from reconvene.deploy.runtime import Runtime
from reconvene.errors import UnknownNameError

RUNTIMES: dict[str, Runtime] = {runtime.name: runtime for runtime in (ONNX, OPENVINO, EXECUTORCH, LITERT, NCNN, EAGER)}
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


def runtime_of(path: Path) -> Runtime:
    """The runtime that loads a file, by the end of its name. Raises UnknownNameError with the endings there are."""
    for runtime in FORMATS.values():
        if path.name.endswith(runtime.suffix):
            return runtime
    raise UnknownNameError("kind of file", path.name, [runtime.suffix for runtime in FORMATS.values()])


def installed() -> list[str]:
    """Names of the runtimes whose packages are all there, in the order of the registry."""
    return [name for name, runtime in RUNTIMES.items() if runtime.installed]
