"""An artifact of a fleet on the disk: it lands whole, and later it is complete or made again."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

from reconvene import artifact
from reconvene.errors import ArtifactError, FleetError
from reconvene.utils.executors import FileContents
from reconvene.workflow.origin import DENSE

DONE = "fleet-done.json"


def land(files: FileContents, destination: Path, key: str) -> None:
    """Write an artifact, with its mark of completion, into a staging folder and rename that to ``destination``.

    The mark holds the key, and checksums of the exported files: those of all others are in the manifests.
    """
    staging = destination.with_name(f".{destination.name}.{os.getpid()}")
    shutil.rmtree(staging, ignore_errors=True)
    for name, content in files.items():
        target = staging / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
    exported = [name for entry in artifact.Artifact.open(staging).exports for name in (entry.file, *entry.files)]
    checksums = {name: hashlib.sha256(files[name]).hexdigest() for name in exported if name in files}
    (staging / DONE).write_text(json.dumps({"key": key, "exports": checksums}), encoding="utf-8")
    shutil.rmtree(destination, ignore_errors=True)
    os.replace(staging, destination)


def is_complete(path: Path, key: str) -> bool:
    """Whether the artifact of ``key`` is complete in ``path``: every file has the checksum it was written with."""
    try:
        receipt = json.loads((path / DONE).read_text(encoding="utf-8"))
        if not isinstance(receipt, dict) or receipt.get("key") != key:
            return False
        stored = artifact.Artifact.open(path)
        _read_all(stored)
        if stored.pruning is not None and stored.pruning.trained:
            _read_all(artifact.Artifact.open(path / DENSE))
        return _holds_exports(stored, receipt)
    except (OSError, ValueError, ArtifactError):
        return False


def _read_all(stored: artifact.Artifact) -> None:
    """Raise ArtifactError where a file is missing or damaged, or the plan cannot be read."""
    for name in stored.files:
        stored.read(name)
    _ = stored.plan


def _holds_exports(stored: artifact.Artifact, receipt: dict[str, Any]) -> bool:
    checksums = receipt.get("exports")
    if checksums is None:  # a mark of an earlier release: sizes are all that is known
        return all(
            sum((stored.folder / name).stat().st_size for name in {entry.file, *entry.files}) == entry.bytes
            for entry in stored.exports
        )
    return isinstance(checksums, dict) and all(
        hashlib.sha256((stored.folder / name).read_bytes()).hexdigest() == digest for name, digest in checksums.items()
    )


def require_own(destination: Path) -> None:
    """Raise FleetError where a folder of results holds files that no fleet wrote: they would go."""
    known = (destination / DONE, destination / artifact.MANIFEST)
    if destination.is_dir() and any(destination.iterdir()) and not any(path.exists() for path in known):
        raise FleetError(f"{destination} was not made by a fleet, and is not written over. Choose another folder (-o)")
