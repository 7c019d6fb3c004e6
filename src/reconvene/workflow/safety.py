"""How safe an artifact is: its trained networks, and the files that were exported from them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from reconvene import artifact
from reconvene.data import Dataset
from reconvene.deploy.runtimes.base import Session
from reconvene.deploy.runtimes.registry import runtime_of
from reconvene.errors import MissingExtraError
from reconvene.safety import Answers, Safety, batched, judge_networks, safety_table
from reconvene.utils.progress import stage
from reconvene.workflow.evaluate import trained_variants


@dataclass(frozen=True)
class ArtifactSafety:
    """What was judged, by the name of the network (``dense``, ``pruned``) or file; ``notes`` say what was not."""

    results: dict[str, Safety]
    notes: tuple[str, ...]

    def __str__(self) -> str:
        return "\n".join([safety_table(self.results), *(f"note: {note}" for note in self.notes)])

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        results = {name: {**result.to_dict(), "flagged": result.flagged} for name, result in self.results.items()}
        return {"results": results, "notes": list(self.notes)}


def judge_safety(
    directory: str | Path, dataset: Dataset, *, seed: int = 0, allow_import: bool = False
) -> ArtifactSafety:
    """Judge the trained networks of an artifact and its exported files, and keep the result in it.

    Args:
        directory: the artifact.
        dataset: what it was trained on: its training images are the members that an attacker looks for.
        seed: of the choice of images, and of what attacks draw.
        allow_import: see ``artifact.load``.

    Raises ArtifactError (nothing was trained), DataError (other classes, or no classes), MissingExtraError.
    """
    folder = Path(directory)
    models, dataset = trained_variants(folder, dataset, allow_import=allow_import)
    with _files(folder, models, dataset) as (files, notes), stage("judging safety"):
        results = judge_networks(models, dataset, files=files, seed=seed)
    training = artifact.Artifact.open(folder).training
    if training is not None and training.asked.get("pixels") != dataset.sha256:
        notes.append(
            "the data are not exactly those of training, or only a part of them: members are its training images"
        )
    artifact.add_measurements(folder, {"safety": {name: result.to_dict() for name, result in results.items()}})
    return ArtifactSafety(results, tuple(notes))


@contextmanager
def _files(folder: Path, models: Any, dataset: Dataset) -> Iterator[tuple[dict[str, tuple[str, Answers]], list[str]]]:
    """The exported files that run here, by name, with the network they were written from; and notes on the others."""
    files: dict[str, tuple[str, Answers]] = {}
    notes: list[str] = []
    with ExitStack() as stack:
        for export in artifact.Artifact.open(folder).exports:
            if export.variant not in models or not (folder / export.file).exists():
                continue
            if ".step." in export.file or export.batch not in (None, 1):
                notes.append(f"{export.file} was not judged: it takes more than one image, or a state")
                continue
            runtime = runtime_of(folder / export.file)
            try:
                runtime.require(exporting=False)
            except MissingExtraError as error:
                notes.append(f"{export.file} was not judged: {error}")
                continue
            session = stack.enter_context(runtime.open(folder / export.file, 1))
            files[export.file] = export.variant, _answers(session, dataset)
        if not files:
            notes.append(
                f"no exported file was judged, only networks in PyTorch. Export one: reconvene export {folder}"
            )
        yield files, notes


def _answers(session: Session, dataset: Dataset) -> Answers:
    def scores(images: Tensor) -> Tensor:
        return next(iter(session.run(dataset.normalise(images)).values()))

    return lambda images: batched(scores, images)
