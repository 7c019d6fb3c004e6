"""Memory for activations that ONNX Runtime takes in a run."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from reconvene.deploy.model_io import by_name, input_names
from reconvene.deploy.quantisation import stand_in
from reconvene.deploy.runtimes.base import Runtime
from reconvene.deploy.runtimes.onnx import arena
from reconvene.deploy.writing import write_model
from reconvene.errors import ExportError


def plan_onnx_memory(runtime: Runtime, model: nn.Module, inputs: Any, precision: str) -> int:
    """What ONNX Runtime asks its arena for in a real run, in a process of its own. Raises ExportError."""
    runtime.require(exporting=True)
    settings = stand_in(inputs) if precision == "int8" else None
    with tempfile.TemporaryDirectory(prefix="reconvene-memory-") as folder:
        path = write_model(runtime, model, inputs, Path(folder) / "model.onnx", settings)[0]
        feeds = by_name(inputs, input_names(model, inputs), "ONNX")
        np.savez(Path(folder) / "inputs.npz", *(tensor.numpy() for tensor in feeds.values()))
        command = [sys.executable, arena.__file__, str(path), str(Path(folder) / "inputs.npz")]
        process = subprocess.run(command, capture_output=True, text=True)
    if process.returncode or not process.stdout.strip().isdigit():
        why = (process.stderr.strip().splitlines() or [f"it ended with {process.returncode}"])[-1]
        raise ExportError(f"ONNX Runtime does not tell what memory {type(model).__name__} takes: {why}")
    return int(process.stdout)
