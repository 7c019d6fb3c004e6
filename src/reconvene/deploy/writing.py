"""Writing a model in a runtime's format, in any precision and form that the runtime has."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from reconvene.deploy.options import FileOptions
from reconvene.deploy.quantisation import Quantisation
from reconvene.deploy.rewriting import eval_form
from reconvene.deploy.runtimes.base import Runtime, Written
from reconvene.deploy.sharing import once
from reconvene.errors import ExportError


def write_model(
    runtime: Runtime, model: nn.Module, inputs: Any, path: Path, settings: Quantisation | None
) -> list[Path]:
    """Write ``model`` in float32, or as ``settings`` say in int8: all files, the main one first.

    Raises ExportError for a runtime that cannot.
    """
    return list(write_file(runtime, model, inputs, path, settings, FileOptions()).files)


def write_file(
    runtime: Runtime, model: nn.Module, inputs: Any, path: Path, settings: Quantisation | None, options: FileOptions
) -> Written:
    """Write a file with these options; returns its paths, its batch and notes on it."""
    original = model
    model = once(original, "eval form", lambda: eval_form(original))
    options, inputs = options.resolved(model, runtime, inputs)
    if settings is None:
        if runtime.export is None:
            raise ExportError(f"{runtime.name} has no files")
        return runtime.export(model, inputs, path, options)
    if runtime.quantize is None:
        raise ExportError(f"{runtime.name} has no int8 files")
    return runtime.quantize(model, inputs, path, settings, options)
