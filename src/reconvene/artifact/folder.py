"""The manifest of an artifact and how files get into the folder.

Writing is a small redo log. New files are complete on disk as ``NAME.new`` before the manifest that names them replaces
the old one in a single step; only then do they take their own names. Stopped at any moment, the folder holds the old
artifact or the new one: reading takes whichever file has the checksum that the manifest asks for.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from reconvene.artifact.manifest import MANIFEST, PLAN, WEIGHTS, FileEntry, Manifest, file_entry, parse_manifest
from reconvene.artifact.probe import Probe
from reconvene.artifact.sections import Sections
from reconvene.artifact.timings import Timings, read_timings
from reconvene.artifact.training_record import Training
from reconvene.artifact.untrusted import file_bytes
from reconvene.data.preprocessing import Normalisation, Preprocessing
from reconvene.errors import ArtifactError
from reconvene.models import ModelSource
from reconvene.surgery import Plan
from reconvene.utils.files import PENDING, read_regular, settle_names, write_through

MANIFEST_LIMIT = 2**26
"""Bytes of the largest manifest that is read; those that are written have some thousands."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Artifact(Sections):
    """What a folder says of its model: how it is built, of which files it is made, what was done to it.

    Attributes:
        folder: where it lies.
        text: its manifest, byte for byte.
        source: how the dense model is built.
        files: checksum and size by file name.
        aliases: name of a tied tensor to the name under which it is stored.
        written_by: version of Reconvene that wrote it.
        versions: of modules, see ``reconvene.artifact.tensors``; None where an older version wrote it.
        probe: what the model outputs, see ``reconvene.artifact.probe``; None where an older version wrote it.
    """

    folder: Path
    text: bytes
    source: ModelSource
    files: Mapping[str, FileEntry]
    aliases: Mapping[str, str]
    written_by: str
    versions: Mapping[str, int] | None
    probe: Probe | None

    @classmethod
    def open(cls, directory: str | Path) -> Artifact:
        """Read and check a manifest; no model is built.

        Raises ArtifactError: missing, truncated, altered, foreign, newer, or with a field that does not fit.
        """
        folder = Path(directory)
        path = folder / MANIFEST
        if not folder.is_dir():
            raise ArtifactError(f"{folder} is not a folder, so no artifact")
        if not path.exists():
            raise ArtifactError(f"{folder} is not a Reconvene artifact: it holds no {MANIFEST}")
        text = read_regular(path, limit=MANIFEST_LIMIT, error=ArtifactError)
        manifest = parse_manifest(text, path)
        return cls(
            folder=folder,
            text=text,
            source=manifest.model.source,
            files=dict(manifest.files.items()),
            aliases=manifest.aliases,
            written_by=manifest.reconvene,
            versions=manifest.versions,
            probe=manifest.probe,
            **vars(manifest.measurements),
        )

    @cached_property
    def plan(self) -> Plan | None:
        """The plan that made the model smaller, None for a dense one. Raises ArtifactError, PlanError."""
        return Plan.from_json(self.read(PLAN), self.folder / PLAN) if PLAN in self.files else None

    @cached_property
    def timings(self) -> Timings:
        """Seconds of the steps that made it. Raises ArtifactError where the file with them is damaged."""
        return read_timings(self.folder)

    @property
    def timed_training(self) -> Training | None:
        """``training`` with the seconds that it took, where they are known."""
        return None if self.training is None else self.timings.put_into(self.training)

    @property
    def is_trained(self) -> bool:
        """Whether its weights were trained, here or elsewhere, and are no fresh draw."""
        return self.training is not None or self.keeps_weights

    @property
    def keeps_weights(self) -> bool:
        """Whether it holds weights that were trained elsewhere, or kept when channels left them."""
        return self.weights_from is not None or (self.pruning is not None and self.pruning.trained)

    @property
    def normalised(self) -> Preprocessing | Normalisation | None:
        """How images are normalised for its weights, where it says so."""
        return self.preprocessing or self.normalisation

    @property
    def measurements(self) -> dict[str, Any]:
        """The sections in plain JSON types, and measurements by names of the user's own, as they are stored."""
        measurements: dict[str, Any] = json.loads(self.text)["measurements"]
        return measurements

    def read(self, name: str) -> bytes:
        """The bytes that the manifest means by ``name``. Raises ArtifactError: missing, truncated or altered."""
        return read_file(self.folder, self.files, name)


def commit_files(folder: Path, files: Mapping[str, bytes], text: bytes) -> None:
    """Put ``files`` and a manifest into the folder, all or nothing.

    Raises ArtifactError where it cannot write, or for a manifest that could not be read again.
    """
    manifest = parse_manifest(text, folder / MANIFEST)
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


def read_file(folder: Path, files: Mapping[str, FileEntry], name: str) -> bytes:
    """The bytes that a manifest with these files means by ``name``. Raises ArtifactError."""
    if name not in files:
        raise ArtifactError(f"{folder} holds no {name} that its manifest knows of")
    expected = files[name]
    path = folder / name
    sizes: list[int] = []
    # Pending: the writer was stopped after its manifest was in place.
    for candidate in (path, folder / (name + PENDING)):
        size = file_bytes(candidate)
        if size is None:
            continue
        sizes.append(size)
        if size == expected.bytes:  # read nothing of another size: it cannot be what is meant
            data = read_regular(candidate, limit=size, error=ArtifactError)
            if file_entry(data) == expected:
                return data
    if not sizes:
        raise ArtifactError(f"{path} is missing")
    if sizes[0] < expected.bytes:
        raise ArtifactError(f"{path} is truncated: {sizes[0]} of {expected.bytes} bytes")
    raise ArtifactError(f"{path} was altered after it was written: its checksum does not fit the one in {MANIFEST}")


def _fits(path: Path, entry: FileEntry) -> bool:
    if file_bytes(path) != entry.bytes:
        return False
    return file_entry(read_regular(path, limit=entry.bytes, error=ArtifactError)) == entry


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
