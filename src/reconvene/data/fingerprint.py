"""Which data lie somewhere, by the bytes of their files: enough to tell that a folder has changed, decoding nothing."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from reconvene.errors import DataError


def files_sha256(spec: str | os.PathLike[str]) -> str | None:
    """Digest of the names and bytes of all files of a data set; None for ``digits`` and an id on the hub.

    ``spec`` is as for ``load_data``. A copy of the folder in another place has the same digest.

    Raises DataError for a file that cannot be read.
    """
    root = Path(spec).expanduser()
    if spec == "digits" or not root.exists():
        return None
    root = root.resolve()
    digest = hashlib.sha256()
    files = sorted(path for path in root.rglob("*") if path.is_file()) if root.is_dir() else [root]
    for path in files:
        name = path.relative_to(root).as_posix() if root.is_dir() else path.name
        try:
            with path.open("rb") as stream:
                content = hashlib.file_digest(stream, "sha256").hexdigest()
        except OSError as error:
            raise DataError(f"{path} cannot be read: {error.strerror or error}") from error
        digest.update(f"{name}\0{content}\0".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()
