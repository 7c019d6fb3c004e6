"""Every runtime by name. A new one is a file of this folder and a line here, or a plugin: see docs/extending."""

from __future__ import annotations

from pathlib import Path

from reconvene.deploy.runtimes.base import Runtime
from reconvene.deploy.runtimes.eager import EAGER
from reconvene.deploy.runtimes.executorch.runtime import EXECUTORCH
from reconvene.deploy.runtimes.litert.runtime import LITERT
from reconvene.deploy.runtimes.ncnn.runtime import NCNN
from reconvene.deploy.runtimes.nir.runtime import NIR
from reconvene.deploy.runtimes.onnx.runtime import ONNX
from reconvene.deploy.runtimes.openvino.runtime import OPENVINO
from reconvene.errors import UnknownNameError

RUNTIMES: dict[str, Runtime] = {}
FORMATS: dict[str, Runtime] = {}


def register(runtime: Runtime) -> None:
    """Let a runtime be used everywhere: by its name in ``bench`` and ``verify``, by its format in ``export``."""
    RUNTIMES[runtime.name] = runtime
    if runtime.file_format:
        FORMATS[runtime.file_format] = runtime


for _runtime in (ONNX, OPENVINO, EXECUTORCH, LITERT, NCNN, NIR, EAGER):
    register(_runtime)


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


def memory_planners() -> list[str]:
    """Formats whose runtimes say what memory they plan for activations."""
    return [name for name, runtime in FORMATS.items() if runtime.plan_memory is not None]


def installed() -> list[str]:
    """Names of the runtimes that are timed and whose packages are all there, in the order of the registry."""
    return [name for name, runtime in RUNTIMES.items() if runtime.timed and runtime.installed]
