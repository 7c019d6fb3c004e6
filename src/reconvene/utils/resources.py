"""Memory and nested calls: what a machine has of them, and errors that say so when they run out."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from reconvene.errors import ResourceError

_CGROUP = Path("/sys/fs/cgroup/memory.max")
_GIB = 2**30
# PyTorch has no class of its own for memory that the processor lacks.
_NO_MEMORY = ("DefaultCPUAllocator", "not enough memory", "out of memory", "Storage size calculation overflowed")


def machine_memory() -> int | None:
    """Bytes that this process can have at most: of the machine, or of its container; ``None`` where neither tells."""
    try:
        physical = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):  # no POSIX system
        return None
    try:
        return min(physical, int(_CGROUP.read_text()))
    except (OSError, ValueError):  # no container, or one without a limit ("max")
        return physical


def require_memory(size: int, subject: str, remedy: str) -> None:
    """Raise ResourceError where ``size`` bytes, which ``subject`` takes, are more than this machine has."""
    available = machine_memory()
    if available is not None and size > available:
        raise ResourceError(
            f"{subject} takes {size / _GIB:,.1f} GiB, and this machine has {available / _GIB:,.1f} GiB. {remedy}"
        )


def resource_error(error: BaseException) -> ResourceError | None:
    """The words for an error of Python or PyTorch about memory or nested calls; ``None`` for any other error."""
    if isinstance(error, RecursionError):
        return ResourceError(
            f"more than {sys.getrecursionlimit()} nested calls, Python's limit here: modules that hold modules that "
            "hold modules, some hundreds deep, take so many. Try: sys.setrecursionlimit(10_000) first, in the file of "
            "the model for instance"
        )
    if isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(words in str(error) for words in _NO_MEMORY)
    ):
        first_line = str(error).partition("\n")[0] or "no memory is left"
        return ResourceError(f"not enough memory: {first_line}. Try a smaller input, batch or model")
    return None


@contextmanager
def explained_resources() -> Iterator[None]:
    """Raise ResourceError in place of errors of Python and PyTorch about memory and nested calls."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if (explanation := resource_error(error)) is not None:
            raise explanation from error
        raise
