"""Where a measurement was made: the processor and the system, never a user, a host name or a path."""

from __future__ import annotations

import os
import platform
from datetime import UTC, datetime
from pathlib import Path


def machine() -> dict[str, str | int]:
    """Processor name, logical cores, architecture, operating system and Python version."""
    return {
        "processor": processor(),
        "cores": os.cpu_count() or 1,
        "architecture": platform.machine(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
    }


def processor() -> str:
    """The processor's own name where the system tells it, else its architecture."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            key, _, value = line.partition(":")
            # ARM boards say Model (the board) where x86 says model name
            if key.strip() in ("model name", "Model", "Hardware") and value.strip():
                return value.strip()
    return platform.processor() or platform.machine()


def saturates() -> bool:
    """Whether int8 products overflow here: x86 without VNNI adds two products of uint8 and int8 in 16 bits.

    Source: ONNX Runtime, "Quantize ONNX models", on ``reduce_range``. Weights of 7 bits cannot overflow.
    """
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return False
    info = Path("/proc/cpuinfo")
    return info.is_file() and "vnni" not in info.read_text(encoding="utf-8", errors="replace")


def now() -> str:
    """The time in UTC, to the second, ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")
