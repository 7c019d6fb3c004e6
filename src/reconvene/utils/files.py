"""Files that are there whole or not at all, whatever stops the writer: an error, a full disk, Ctrl-C, a power cut."""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path

from reconvene.errors import ArtifactError, ReconveneError

PENDING = ".new"
"""What a file is called besides its name until all of it is there."""


def make_parent(path: Path, *, error: type[ReconveneError]) -> None:
    """Make the folder that a file is to lie in. Raises an error of this type where that cannot be made."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as failure:
        raise error(f"cannot make the folder {path.parent}: {failure.strerror or failure}") from failure


def write_atomic(path: Path, data: bytes, *, error: type[ReconveneError] = ArtifactError, what: str = "") -> None:
    """Write to a neighbour, force it to the disk, then rename: a reader finds the old file or the new one.

    ``what`` stands before the path where it is said that it cannot be written: ``the report``.

    Raises:
        ReconveneError: of the type ``error``, where folder or disk does not take it; the old file is still there.
    """
    pending = path.with_name(path.name + PENDING)
    try:
        write_through(pending, data)
        os.replace(pending, path)
        settle_names(path.parent)
    except BaseException as stopped:
        with contextlib.suppress(OSError):
            pending.unlink(missing_ok=True)
        if isinstance(stopped, OSError):
            reason = stopped.strerror or type(stopped).__name__
            raise error(
                f"cannot write {what + ' ' * bool(what)}{path}: {reason}. What was there before is intact."
            ) from stopped
        raise


def read_regular(path: Path, *, limit: int, error: type[ReconveneError], what: str = "") -> bytes:
    """The bytes of a regular file, links followed: nothing is opened for ever, and no more than ``limit`` is read.

    ``what`` stands before the path where it is said that it cannot be read: ``the plan``.

    Raises:
        ReconveneError: of the type ``error``; it is missing, larger than ``limit``, or a pipe, a device, a folder.
    """
    name = f"{what + ' ' * bool(what)}{path}"
    try:
        # Without waiting: opening a named pipe would last until somebody writes into it.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        with os.fdopen(descriptor, "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise error(f"cannot read {name}: it is not a regular file")
            if status.st_size > limit:
                raise error(f"cannot read {name}: it has {status.st_size:,} bytes, and at most {limit:,} are expected")
            return file.read(limit)
    except (OSError, ValueError) as reason:  # a name with a zero byte in it is a ValueError
        raise error(f"cannot read {name}: {getattr(reason, 'strerror', None) or reason}") from reason


def write_through(path: Path, data: bytes) -> None:
    """Write so that it is on the disk, and not only on its way there, when this returns."""
    with open(path, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def settle_names(folder: Path) -> None:
    """Have the names in a folder survive a power cut."""
    if os.name != "posix":  # elsewhere a folder cannot be opened
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def unwritable(path: Path) -> str:
    """The reason why a file cannot be written at ``path``, checked without writing; empty if there is none."""
    if path.is_dir():
        return "it is a folder"
    ancestor = next(parent for parent in path.absolute().parents if parent.exists())
    if not ancestor.is_dir():
        return f"{ancestor} is not a folder"
    return "" if os.access(ancestor, os.W_OK) else f"{ancestor} does not allow it"
