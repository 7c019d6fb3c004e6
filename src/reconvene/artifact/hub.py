"""Artifacts on the Hugging Face hub: the artifact's own files, and a model card that is generated from them."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reconvene.artifact.card import card
from reconvene.artifact.folder import Artifact, commit_files
from reconvene.artifact.manifest import MANIFEST, PLAN, WEIGHTS
from reconvene.artifact.timings import TIMINGS, write_timings
from reconvene.errors import ArtifactError, MissingExtraError

PREFIX = "hf:"
CARD = "README.md"


@dataclass(frozen=True)
class Push:
    """What goes, or went, where: files with their bytes; ``url`` of the commit, None where nothing was uploaded."""

    repo_id: str
    files: dict[str, int]
    card: str
    url: str | None

    def __str__(self) -> str:
        listed = "\n".join(f"  {name}  {size:,} bytes" for name, size in self.files.items())
        outcome = f"pushed to {self.url}" if self.url else f"would be pushed to {self.repo_id}"
        return f"{outcome}\n{listed}" + ("" if self.url else f"\n\n{self.card}")

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {"repository": self.repo_id, "files": self.files, "url": self.url, "card": self.card}


def push_to_hub(
    directory: str | Path,
    repo_id: str,
    *,
    license: str | None = None,
    include: Sequence[str] = (),
    private: bool | None = None,
    revision: str | None = None,
    message: str | None = None,
    token: str | None = None,
    dry_run: bool = False,
) -> Push:
    """Upload an artifact with a generated model card, in one commit. Who may write is between you and the hub.

    Args:
        directory: the artifact; every file is compared with its checksum first.
        repo_id: ``owner/name``; it is made where there is none.
        license: of the weights, as the hub calls it (``apache-2.0``); the card says that none was stated without it.
        include: names of further files in the folder, such as an exported model or a bundle.
        private: whether a repository that is made here is private; by default what the owner's account says.
        revision: branch to commit to, made from the main one where there is none; by default the main one.
        token: by default the one that ``hf auth login`` or the environment gave.
        dry_run: only say what would be uploaded.

    Raises ArtifactError: no whole artifact, a file that is not there, or the hub refused. MissingExtraError.
    """
    hub = _hub("pushing to the hub")
    folder = Path(directory)
    stored = Artifact.open(folder)
    text = card(stored, repo_id=repo_id, license=license)
    files: dict[str, bytes] = {name: stored.read(name) for name in stored.files}
    files |= {MANIFEST: stored.text, CARD: text.encode()}
    if (folder / TIMINGS).exists():
        files[TIMINGS] = stored.timings.to_json()
    for name in include:
        path = folder / name
        if Path(name).name != name or not path.is_file() or name in files:
            raise ArtifactError(f"{path} cannot go along: name a further file that lies in {folder}")
        files[name] = path.read_bytes()
    sizes = {name: len(data) for name, data in sorted(files.items())}
    if dry_run:
        return Push(repo_id, sizes, text, None)
    with _trouble(f"pushing to {repo_id}"):
        api = hub.HfApi(token=token)
        api.create_repo(repo_id, private=private, exist_ok=True)
        if revision is not None and not api.revision_exists(repo_id, revision):
            api.create_branch(repo_id, branch=revision)
        changes = [hub.CommitOperationAdd(path_in_repo=name, path_or_fileobj=files[name]) for name in sizes]
        of_the_one_before = {PLAN, TIMINGS} - files.keys()
        if of_the_one_before:
            there = api.list_repo_files(repo_id, revision=revision)
            changes += [hub.CommitOperationDelete(path_in_repo=name) for name in sorted(of_the_one_before & {*there})]
        uploaded = api.create_commit(
            repo_id, changes, commit_message=message or f"Push {stored.source.address}", revision=revision
        )
    return Push(repo_id, sizes, text, str(uploaded.commit_url))


def fetched(repo_id: str, *, revision: str | None = None, token: str | None = None) -> Path:
    """The folder in the local cache with the files of the artifact ``owner/name``, and nothing else of the repository.

    Raises ArtifactError: it does not exist, cannot be reached, or holds no artifact. MissingExtraError.
    """
    hub = _hub(f"loading {repo_id} from the hub")
    with _trouble(f"loading {repo_id}"):
        patterns = [MANIFEST, PLAN, WEIGHTS, TIMINGS]
        folder = Path(hub.HfApi(token=token).snapshot_download(repo_id, revision=revision, allow_patterns=patterns))
    if not (folder / MANIFEST).exists():
        raise ArtifactError(f"{repo_id} on the hub is not a Reconvene artifact: it holds no {MANIFEST}")
    return folder


def pull(
    repo_id: str,
    directory: str | Path,
    *,
    revision: str | None = None,
    token: str | None = None,
    overwrite: bool = False,
) -> Path:
    """Copy the artifact ``owner/name`` from the hub into a folder, every file compared with its checksum.

    Raises ArtifactError: also where the folder holds an artifact already and ``overwrite`` is not set.
    """
    target = Path(directory)
    if (target / MANIFEST).exists() and not overwrite:
        raise ArtifactError(f"{target} holds an artifact already. Choose another folder, or --overwrite it")
    stored = Artifact.open(fetched(repo_id, revision=revision, token=token))
    commit_files(target, {name: stored.read(name) for name in stored.files}, stored.text)
    write_timings(target, stored.timings if (stored.folder / TIMINGS).exists() else None)
    return target


def parse_hub_address(address: str) -> tuple[str, str | None]:
    """``hf:owner/name`` or ``hf:owner/name@revision``, apart. Raises ArtifactError."""
    repo_id, separator, revision = address.removeprefix(PREFIX).partition("@")
    if not repo_id or (separator and not revision):
        raise ArtifactError(f"{address!r} is not an address on the hub. Write hf:owner/name, or hf:owner/name@revision")
    return repo_id, revision or None


def _hub(needed_for: str) -> Any:
    try:
        return importlib.import_module("huggingface_hub")
    except ImportError as error:
        raise MissingExtraError("huggingface_hub", "hub", needed_for) from error


@contextmanager
def _trouble(doing: str) -> Iterator[None]:
    """What the hub or the way to it refuses, as an ArtifactError."""
    # Imported by its full name: the package loads its parts lazily, and this one is no attribute until it is imported.
    errors = importlib.import_module("huggingface_hub.errors")
    # Its client lets errors of the library it speaks HTTP with through, and which that is has changed. An upload that
    # fails half-way is a RuntimeError, an answer without an entry that must be there a KeyError.
    transport = errors.HfHubHTTPError.__bases__
    try:
        yield
    except (OSError, ValueError, RuntimeError, KeyError, *transport) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ArtifactError(f"{doing} failed: {reason}") from error
