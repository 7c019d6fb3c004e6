"""What is measured, and on what, in words. Imports nothing of Reconvene, so that it can be copied to a device."""

from __future__ import annotations

import os
import platform
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from .layer_spec import LayerJob


def conditions(threads: int, precision: str) -> dict[str, Any]:
    """What is measured on, and with what."""
    import onnxruntime

    return {
        "device": {"processor": _processor(), "architecture": platform.machine(), "cores": os.cpu_count() or 1},
        "runtime": {"name": "onnxruntime", "version": onnxruntime.__version__, "threads": threads},
        "precision": precision,
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def _processor() -> str:
    """The processor's own name where the system tells it, else its architecture."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8", errors="replace").splitlines() if info.is_file() else []
    for line in lines:
        key, _, value = line.partition(":")
        if key.strip() in ("model name", "Model", "Hardware") and value.strip():
            return value.strip()
    return platform.processor() or platform.machine()


def describe_layer(job: LayerJob) -> str:
    """One line that names a layer."""
    spec = job.spec
    kernel = "x".join(str(size) for size in spec.kernel)
    stride = f" stride {spec.stride[0]}" if max(spec.stride, default=1) > 1 else ""
    tail = " + " + " + ".join(spec.tail) if spec.tail else ""
    input_size = "at " + "x".join(str(size) for size in spec.spatial) if spec.spatial else ""
    name = spec.operator or spec.kind
    widths = f"up to {job.in_width} -> {job.out_width}"
    return " ".join(f"{name} {kernel}{stride}{tail} {input_size}".split()) + f", {widths}"
