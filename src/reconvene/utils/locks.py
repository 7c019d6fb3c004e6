"""One process at a time in a folder of results."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from reconvene.errors import ReconveneError
from reconvene.utils.progress import is_first_process


@contextmanager
def alone_in(folder: Path, *, error: type[ReconveneError]) -> Iterator[None]:
    """Within: no other process of this machine works in the folder; it would write over this one's files.

    The lock lies in the system's folder for temporary files, not among the results, and ends with the process. Under
    torchrun the first process holds it for all.

    Raises:
        ReconveneError: of the type ``error``, where another process is at work.
    """
    if not is_first_process():
        yield
        return
    name = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:24]
    try:
        with FileLock(Path(tempfile.gettempdir()) / f"reconvene-{name}.lock", timeout=0):
            yield
    except Timeout as busy:
        raise error(f"another process is at work in {folder}. Wait for it, or choose another folder (-o)") from busy
