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
    # ARM boards say Model (the board) where x86 says model name
    return _cpuinfo("model name", "Model", "Hardware") or platform.processor() or platform.machine()


def instruction_sets() -> frozenset[str]:
    """Names of the processor's instruction sets, such as ``avx2``; empty where the system does not tell them."""
    return frozenset(_cpuinfo("flags", "Features").split())


def usable_cores() -> int:
    """Logical cores this process may run on, fewer than the machine has where it is held to some of them."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def saturates() -> bool:
    """Whether int8 products overflow here: x86 without VNNI adds two products of uint8 and int8 in 16 bits.

    Source: ONNX Runtime, "Quantize ONNX models", on ``reduce_range``. Weights of 7 bits cannot overflow.
    """
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return False
    features = instruction_sets()
    return bool(features) and not any("vnni" in name for name in features)


def now() -> str:
    """The time in UTC, to the second, ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _cpuinfo(*keys: str) -> str:
    """The first value of /proc/cpuinfo under one of these keys; empty where there is none (it exists on Linux only)."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []
    pairs = (line.partition(":") for line in lines)
    return next((value.strip() for key, _, value in pairs if key.strip() in keys and value.strip()), "")
