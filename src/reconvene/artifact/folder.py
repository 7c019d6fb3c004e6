"""The manifest of an artifact and how files get into the folder.

Writing is a small redo log. New files are complete on disk as ``NAME.new`` before the manifest that names them replaces
the old one in a single step; only then do they take their own names. Stopped at any moment, the folder holds the old
artifact or the new one: reading takes whichever file has the checksum that the manifest asks for.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from reconvene._version import __version__
from reconvene.artifact.probe import check as check_probe
from reconvene.artifact.untrusted import check_manifest, parse_json, read_bytes, size_of
from reconvene.errors import ArtifactError, ModelError
from reconvene.models import Source
from reconvene.utils.files import PENDING, settle_names, write_through

MANIFEST = "reconvene.json"
PLAN = "plan.json"
WEIGHTS = "model.safetensors"
MANIFEST_LIMIT = 2**26
"""Bytes of the largest manifest that is read; those that are written have some thousands."""

_FORMAT = "reconvene-artifact"
_FORMAT_VERSION = 1


@dataclass(frozen=True)
class Manifest:
    """What ``reconvene.json`` holds.

    Attributes:
        source: how the dense model is built.
        files: file name to ``{"sha256": hex, "bytes": int}``.
        aliases: name of a tied tensor to the name under which it is stored.
        measurements: free-form, in plain JSON types.
        written_by: version of Reconvene that wrote it.
        versions: of modules, see ``reconvene.artifact.tensors``; None where an older version wrote it.
        probe: what the model puts out, see ``reconvene.artifact.probe``; None where an older version wrote it.
    """

    source: Source
    files: Mapping[str, Mapping[str, Any]]
    aliases: Mapping[str, str] = field(default_factory=dict)
    measurements: Mapping[str, Any] = field(default_factory=dict)
    written_by: str = __version__
    versions: Mapping[str, int] | None = None
    probe: Mapping[str, Any] | None = None


def commit(folder: Path, files: Mapping[str, bytes], manifest: Manifest) -> None:
    """Put ``files`` and ``manifest`` into the folder, all or nothing. Raises ArtifactError where it cannot write."""
    text = _to_json(manifest)
    is_new = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, data in files.items():
            write_through(folder / (name + PENDING), data)
        write_through(folder / (MANIFEST + PENDING), text)
        os.replace(folder / (MANIFEST + PENDING), folder / MANIFEST)  # from here on the new artifact is the artifact
    except BaseException as error:
        if not _is_committed(folder, text):  # a Ctrl-C can come between the replacement and the next line
            _discard(folder, [*files, MANIFEST], is_new)
        if isinstance(error, OSError):
            reason = error.strerror or type(error).__name__
            raise ArtifactError(f"cannot write the artifact {folder}: {reason}. What was there is unchanged") from error
        raise
    _finish_pending(folder, manifest, fresh=files)


def read(folder: Path) -> Manifest:
    """The checked manifest of a folder. Raises ArtifactError: missing, truncated, altered, foreign or newer."""
    path = folder / MANIFEST
    if not folder.is_dir():
        raise ArtifactError(f"{folder} is no folder, so no artifact")
    if not path.exists():
        raise ArtifactError(f"{folder} is no Reconvene artifact: it holds no {MANIFEST}")
    data = _parse(path)
    version = data.get("format_version")
    if not isinstance(version, int) or version < 1:
        raise ArtifactError(f"{path} was altered: format_version is {version!r}")
    if version > _FORMAT_VERSION:
        raise ArtifactError(
            f"{path} has format version {version}, written by Reconvene {data.get('reconvene')}; "
            f"this is Reconvene {__version__}, which reads up to version {_FORMAT_VERSION}. Upgrade Reconvene"
        )
    if data.get("checksum") != _checksum(data):
        raise ArtifactError(f"{path} was altered after it was written: its checksum does not fit. Save the model again")
    check_manifest(data, path, names=frozenset((WEIGHTS, PLAN)), required=WEIGHTS)
    versions, probe = data.get("versions"), data.get("probe")
    check_probe(probe, str(path))
    try:
        source = Source.from_dict(data["model"])
    except ModelError as error:
        raise ArtifactError(f"{path} does not say what it must: {error}") from error
    return Manifest(source, data["files"], data["aliases"], data["measurements"], data["reconvene"], versions, probe)


def read_file(folder: Path, manifest: Manifest, name: str) -> bytes:
    """The bytes that the manifest means by ``name``. Raises ArtifactError: missing, truncated or altered."""
    if name not in manifest.files:
        raise ArtifactError(f"{folder} holds no {name} that its manifest knows of")
    expected = manifest.files[name]
    path = folder / name
    sizes: list[int] = []
    # Pending: the writer was stopped after its manifest was in place.
    for candidate in (path, folder / (name + PENDING)):
        size = size_of(candidate)
        if size is None:
            continue
        sizes.append(size)
        if size == expected["bytes"]:  # read nothing of another size: it cannot be what is meant
            data = read_bytes(candidate, limit=size)
            if hashlib.sha256(data).hexdigest() == expected["sha256"]:
                return data
    if not sizes:
        raise ArtifactError(f"{path} is missing")
    if sizes[0] < expected["bytes"]:
        raise ArtifactError(f"{path} is truncated: {sizes[0]} of {expected['bytes']} bytes")
    raise ArtifactError(f"{path} was altered after it was written: its checksum does not fit the one in {MANIFEST}")


def describe(files: Mapping[str, bytes]) -> dict[str, dict[str, Any]]:
    """Checksum and size of every file, as the manifest keeps them."""
    return {name: {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)} for name, data in files.items()}


def dump(data: Any) -> bytes:
    """JSON that is the same for the same data. Raises ArtifactError for what JSON cannot hold, NaN among it."""
    try:
        return (json.dumps(data, indent=1, sort_keys=True, allow_nan=False) + "\n").encode()
    except (TypeError, ValueError) as error:
        raise ArtifactError(f"cannot be kept as JSON: {error}. Use finite numbers, strings, lists and dicts") from error


def _to_json(manifest: Manifest) -> bytes:
    data = {
        "format": _FORMAT,
        "format_version": _FORMAT_VERSION,
        "reconvene": manifest.written_by,
        "model": manifest.source.to_dict(),
        "files": dict(manifest.files),
        "aliases": dict(manifest.aliases),
        "measurements": dict(manifest.measurements),
    }
    # Absent, not null: what an older version wrote keeps its bytes when it is copied.
    data |= {"versions": dict(manifest.versions)} if manifest.versions is not None else {}
    data |= {"probe": dict(manifest.probe)} if manifest.probe is not None else {}
    return dump({**data, "checksum": _checksum(data)})


def _checksum(data: Mapping[str, Any]) -> str:
    return hashlib.sha256(dump({key: value for key, value in data.items() if key != "checksum"})).hexdigest()


def _parse(path: Path) -> dict[str, Any]:
    data = parse_json(read_bytes(path, limit=MANIFEST_LIMIT), path)
    if not isinstance(data, dict) or data.get("format") != _FORMAT:
        raise ArtifactError(f"{path} was not written by Reconvene: it is JSON, but no manifest of an artifact")
    return data


def _fits(path: Path, entry: Mapping[str, Any]) -> bool:
    if size_of(path) != entry["bytes"]:
        return False
    return describe({"": read_bytes(path, limit=entry["bytes"])})[""] == entry


def _is_committed(folder: Path, text: bytes) -> bool:
    with contextlib.suppress(OSError):
        return (folder / MANIFEST).read_bytes() == text
    return False


def _discard(folder: Path, names: list[str], is_new: bool) -> None:
    with contextlib.suppress(OSError):
        for name in names:
            (folder / (name + PENDING)).unlink(missing_ok=True)
        if is_new:
            folder.rmdir()


def _finish_pending(folder: Path, manifest: Manifest, fresh: Mapping[str, bytes]) -> None:
    """Give pending files their names; drop what a stopped writer left and what the manifest no longer names."""
    try:
        for name in (WEIGHTS, PLAN):
            pending = folder / (name + PENDING)
            if name not in manifest.files:
                (folder / name).unlink(missing_ok=True)
                pending.unlink(missing_ok=True)
            elif pending.exists():
                meant = name in fresh or _fits(pending, manifest.files[name])
                os.replace(pending, folder / name) if meant else pending.unlink()
        settle_names(folder)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise ArtifactError(
            f"the artifact {folder} is complete, but its files could not be tidied: {reason}"
        ) from error
