"""One process at a time in a folder of results."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from reconvene.errors import ReconveneError
from reconvene.utils.progress import is_first_process, note


@contextmanager
def alone_in(folder: Path, *, error: type[ReconveneError]) -> Iterator[None]:
    """Within: no other process of this machine works in the folder; it would write over this one's files.

    The lock lies in the system's folder for temporary files, not among the results, and ends with the process. Under
    torchrun the first process holds it for all.

    Raises:
        ReconveneError: of the type ``error``, where another process is at work.
    """
    lock = _lock_of(folder) if is_first_process() else None
    try:
        if lock is not None:
            lock.acquire(timeout=0)
    except Timeout as busy:
        raise error(f"another process is at work in {folder}. Wait for it, or choose another folder (-o)") from busy
    except OSError as trouble:
        note(f"{folder} is not locked against other processes: {trouble.strerror or trouble}")
        lock = None
    try:
        yield
    finally:
        if lock is not None:
            lock.release()


def _lock_of(folder: Path) -> FileLock:
    """A file for each user and folder."""
    user = os.getuid() if hasattr(os, "getuid") else "user"
    name = hashlib.sha256(f"{user}:{folder.resolve()}".encode()).hexdigest()[:24]
    return FileLock(Path(tempfile.gettempdir()) / f"reconvene-{name}.lock")
