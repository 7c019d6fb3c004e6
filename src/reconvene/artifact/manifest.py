"""``reconvene.json`` as a value: what an artifact is made of, and what was done to it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from reconvene._version import __version__
from reconvene.artifact.probe import CheckedProbe, Probe
from reconvene.artifact.sections import Sections, to_plain
from reconvene.errors import ArtifactError
from reconvene.models import ModelSource
from reconvene.utils import invalid_values, schema
from reconvene.utils.schema import AnySeed, Count, Name, Size, Text, closed, opened

MANIFEST = "reconvene.json"
PLAN = "plan.json"
WEIGHTS = "model.safetensors"

_FORMAT = "reconvene-artifact"
_FORMAT_VERSION = 1

_Argument = Annotated[int, Field(ge=-(2**63), lt=2**64)] | float | bool | Text
_Shape = Annotated[tuple[Size, ...], Field(max_length=16)]


@closed
@dataclass(frozen=True)
class FileEntry:
    """One file of an artifact: its checksum and its bytes."""

    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    bytes: Count


def file_entry(data: bytes) -> FileEntry:
    """The entry of a file that holds ``data``."""
    return FileEntry(hashlib.sha256(data).hexdigest(), len(data))


_Files = dict[Literal["model.safetensors", "plan.json"], FileEntry]


def _with_weights(files: _Files) -> _Files:
    if WEIGHTS not in files:
        raise ValueError(f"does not name {WEIGHTS}")
    return files


@opened
@dataclass(frozen=True)
class ModelEntry:
    """How the dense model is built, see ``reconvene.models.ModelSource``."""

    address: Name
    args: dict[Name, _Argument] | None = None
    input_shape: _Shape | None = None
    seed: AnySeed = 0
    replaced: dict[Name, Text] | None = None

    @property
    def source(self) -> ModelSource:
        """As a source."""
        return ModelSource(self.address, dict(self.args or {}), self.input_shape, self.seed, dict(self.replaced or {}))


@opened
@dataclass(frozen=True)
class Manifest:
    """The whole file. ``versions`` and ``probe`` are None where a release before them wrote it.

    Attributes:
        format: and ``format_version``, what the file is.
        reconvene: version of the release that wrote it.
        model: how the dense model is built.
        files: what else belongs to the artifact; no other path is ever opened.
        aliases: name of a tied tensor to the name under which it is stored.
        measurements: what was done to it.
        versions: of modules, see ``reconvene.artifact.tensors``.
        probe: what the model outputs, see ``reconvene.artifact.probe``.
        checksum: of the file, without this field.
    """

    format: Literal["reconvene-artifact"]
    format_version: Count
    reconvene: Name
    model: ModelEntry
    files: Annotated[_Files, AfterValidator(_with_weights)]
    aliases: dict[Name, Name]
    measurements: Sections
    versions: dict[str, Count] | None = None
    probe: CheckedProbe | None = None
    checksum: Text = ""


def new_manifest(
    source: ModelSource,
    files: Mapping[str, bytes],
    *,
    aliases: Mapping[str, str],
    measurements: Mapping[str, Any],
    versions: Mapping[str, int],
    probe: Probe,
) -> bytes:
    """The text of the manifest of a new artifact. Raises ArtifactError for what JSON cannot hold."""
    return _signed(
        {
            "format": _FORMAT,
            "format_version": _FORMAT_VERSION,
            "model": source.to_dict(),
            "files": {name: asdict(file_entry(data)) for name, data in files.items()},
            "aliases": dict(aliases),
            "measurements": {name: to_plain(section) for name, section in measurements.items()},
            "versions": dict(versions),
            "probe": {name: value for name, value in asdict(probe).items() if value is not None},
        }
    )


def changed_manifest(text: bytes, measurements: Mapping[str, Any]) -> bytes:
    """The same text with these measurements added or replaced; what this release does not know stays as it is."""
    data: dict[str, Any] = json.loads(text)
    data["measurements"] |= {name: to_plain(section) for name, section in measurements.items()}
    return _signed(data)


def parse_manifest(text: bytes, path: Path) -> Manifest:
    """The checked manifest in ``text``. Raises ArtifactError: truncated, altered, foreign, newer, or a wrong field."""
    data = schema.parse_json(text, source=path, error=ArtifactError)
    if not isinstance(data, dict) or data.get("format") != _FORMAT:
        raise ArtifactError(f"{path} was not written by Reconvene: it is JSON, but no manifest of an artifact")
    version = data.get("format_version")
    if type(version) is not int or version < 1:
        raise ArtifactError(f"{path} was altered: format_version is {invalid_values.shown(version)}")
    if version > _FORMAT_VERSION:
        raise ArtifactError(
            f"{path} has format version {invalid_values.shown(version)}, written by Reconvene "
            f"{str(data.get('reconvene'))[:40]}; this is Reconvene {__version__}, which reads up to version "
            f"{_FORMAT_VERSION}. Upgrade Reconvene"
        )
    if data.get("checksum") != _checksum(data):
        raise ArtifactError(f"{path} was altered after it was written: its checksum does not fit. Save the model again")
    return schema.read_json(Manifest, text, source=path, error=ArtifactError)


def _signed(data: Mapping[str, Any]) -> bytes:
    unsigned = {**data, "reconvene": __version__}
    return _dump({**unsigned, "checksum": _checksum(unsigned)})


def _checksum(data: Mapping[str, Any]) -> str:
    return hashlib.sha256(_dump({key: value for key, value in data.items() if key != "checksum"})).hexdigest()


def _dump(data: Any) -> bytes:
    """JSON that is the same for the same data."""
    try:
        return (json.dumps(data, indent=1, sort_keys=True, allow_nan=False) + "\n").encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise ArtifactError(
            f"the manifest cannot be written as JSON: {error}. Use finite numbers, strings, lists and dicts"
        ) from error
