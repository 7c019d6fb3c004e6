"""Where a network that is pruned comes from: how it is built, and which weights it has."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import nn

from reconvene import artifact
from reconvene.artifact.folder import commit_files
from reconvene.artifact.manifest import changed_manifest
from reconvene.artifact.weights import load_weights
from reconvene.data import Normalisation
from reconvene.errors import ArtifactError, ModelError
from reconvene.models import ModelSource
from reconvene.planning.trained_weights import moved_norms
from reconvene.surgery import Plan
from reconvene.training.log import LOG_NAME
from reconvene.utils.files import write_atomic

DENSE = "dense"
"""Folder of the dense network's own artifact, inside that of the network that is compared with it."""


def stored_variants(folder: Path) -> dict[str, artifact.Artifact]:
    """The artifacts of the networks in a folder: the dense network's of a pruned one, if it is kept, then its own."""
    stored = artifact.Artifact.open(folder)
    if stored.plan is None:
        return {"dense": stored}
    dense = folder / DENSE
    kept = {"dense": artifact.Artifact.open(dense)} if (dense / artifact.MANIFEST).exists() else {}
    return {**kept, "pruned": stored}


@dataclass(frozen=True)
class Origin:
    """The network of the artifact ``base``, or else that of ``source``, with the weights of a file where one is given.

    ``source`` is how the network is built in both cases; ``weights`` is a file as ``load_weights`` reads it, and
    ``normalisation`` is how images were normalised for them, where that is known.
    """

    source: ModelSource
    base: Path | None = None
    weights: Path | None = None
    normalisation: Normalisation | None = None

    @property
    def is_drawn(self) -> bool:
        """Whether the seed alone decides the weights; a model of the user's own may load some itself."""
        return self.base is None and self.weights is None and not self.source.imports

    @property
    def sha256(self) -> str | None:
        """Checksum of the weights that are given, and of how images are prepared for them; None where there are none.

        What is measured of an artifact does not change it. Raises ModelError, ArtifactError.
        """
        if self.base is not None:
            stored = artifact.Artifact.open(self.base)
            prepared = None if stored.preprocessing is None else stored.preprocessing.to_dict()
            if prepared is None and stored.normalisation is not None:
                prepared = asdict(stored.normalisation)
            content = {"files": {name: entry.sha256 for name, entry in stored.files.items()}, "prepared": prepared}
            return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
        if self.weights is None:
            return None
        try:
            with self.weights.open("rb") as stream:
                return hashlib.file_digest(stream, "sha256").hexdigest()
        except OSError as error:
            raise ModelError(f"{self.weights} cannot be read: {error.strerror or error}") from error

    def build(self, *, allow_import: bool = False) -> nn.Module:
        """The network. Raises ModelError, ArtifactError."""
        if self.base is not None:
            return artifact.load(self.base, allow_import=allow_import)
        model = self.source.build(allow_import=allow_import)
        if self.weights is not None:
            load_weights(model, self.weights)
        return model

    def require_other_folder(self, folder: Path) -> None:
        """Raise ArtifactError where an artifact would replace the one that it is cut from."""
        if self.base is not None and self.base.resolve() == folder.resolve():
            raise ArtifactError(
                f"{folder} is what is pruned, and its weights are kept beside. Choose another folder (-o)"
            )

    def save_cut(
        self, small: nn.Module, model: nn.Module, folder: Path, plan: Plan, settings: artifact.PruningRecord
    ) -> None:
        """Save what ``plan`` left of ``model``; with kept weights that network itself, too, in ``folder/dense``."""
        sections: dict[str, Any] = {"pruning": settings, "normalisation": self.normalisation}
        if self.base is not None:  # the weights are kept, so images are prepared as before
            stored = artifact.Artifact.open(self.base)
            sections |= {"preprocessing": stored.preprocessing}
            sections["normalisation"] = stored.normalisation or self.normalisation
        sections = {name: section for name, section in sections.items() if section is not None}
        timings = artifact.Timings(pruning=dict(plan.timings))
        if self.is_drawn:
            artifact.save_pruned(small, model, folder, plan=plan, source=self.source, extra=sections, timings=timings)
        else:
            artifact.save(small, folder, plan=plan, source=self.source, extra=sections, timings=timings)
        if settings.trained:
            self.save_dense(model, folder / DENSE)

    def save_dense(self, model: nn.Module, folder: Path) -> None:
        """Keep the trained network that is pruned: it teaches, and the smaller one is compared with it.

        If ``base`` was pruned itself, its own dense network (``base/dense``) is kept instead, where it exists.
        """
        base = self.base
        if base is None:
            looks_untrained = moved_norms(model) == []
            trained = self.weights is not None or not looks_untrained  # its own code may have loaded weights
            origin: dict[str, Any] = {}
            if trained:
                origin["weights_from"] = self.source.address if self.weights is None else self.weights.name
            if self.normalisation is not None:
                origin["normalisation"] = self.normalisation
            artifact.save(model, folder, plan=None, source=self.source, extra=origin)
            return
        stored = artifact.Artifact.open(base)
        if stored.plan is not None and (base / DENSE / artifact.MANIFEST).exists():
            base, stored = base / DENSE, artifact.Artifact.open(base / DENSE)
        files = {name: stored.read(name) for name in stored.files}
        commit_files(folder, files, changed_manifest(stored.text, {"exports": ()}))
        if (base / LOG_NAME).exists():
            write_atomic(folder / LOG_NAME, (base / LOG_NAME).read_bytes())
