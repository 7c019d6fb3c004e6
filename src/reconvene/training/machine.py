"""What this machine is, for the log of a run, and whether it computes in bfloat16."""

from __future__ import annotations

import platform
from importlib import metadata

import torch

from reconvene.errors import TrainingError
from reconvene.utils.machine import instruction_sets, processor

BF16_FLAGS = frozenset({"avx512_bf16", "amx_bf16", "bf16"})
LIBRARIES = ("reconvene", "numpy", "safetensors")


def choose_device(name: str, *, local_rank: int = 0) -> torch.device:
    """The device called ``name``; ``auto`` means the ``local_rank``-th CUDA device where there is one, else the CPU.

    Raises:
        TrainingError: no such device here.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise TrainingError(f"unknown device {name!r}. Try: auto, cpu, cuda or cuda:0.") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise TrainingError(f"device {name!r} asked, but torch finds no CUDA device here. Try: cpu.")
    return torch.device("cuda", local_rank) if device.type == "cuda" and device.index is None else device


def has_bf16(device: torch.device) -> bool:
    """Whether the processor has bfloat16 instructions, not merely an emulation of them."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return device.type == "cpu" and not BF16_FLAGS.isdisjoint(instruction_sets())


def describe_machine(device: torch.device) -> dict[str, str | int]:
    """Processor, threads, system and Python; and the accelerator if there is one in use."""
    description: dict[str, str | int] = {
        "processor": processor(),
        "threads": torch.get_num_threads(),
        "system": platform.platform(terse=True),
        "python": platform.python_version(),
    }
    if device.type == "cuda":
        description["accelerator"] = torch.cuda.get_device_name(device)
    return description


def library_versions() -> dict[str, str]:
    """Versions of what the result depends on; a package that runs uninstalled, from its sources, says so."""
    versions = {"torch": str(torch.__version__)}
    for name in LIBRARIES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return versions
