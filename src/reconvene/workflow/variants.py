"""The networks of an artifact, and what they take: what exports, benchmarks and evaluations begin with."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from torch import Tensor, nn

from reconvene import artifact
from reconvene.deploy.sharing import once
from reconvene.errors import ArtifactError
from reconvene.models import example_inputs
from reconvene.quantiser.activations import Range
from reconvene.workflow.origin import DENSE
from reconvene.workflow.qat import learned_ranges


def variants(folder: Path, *, allow_import: bool) -> dict[str, nn.Module]:
    """``dense`` (trained, where there is one) and then ``pruned``, in eval mode; a dense artifact is ``dense`` alone.

    Loaded once within ``shared_conversions``, as long as the weights on disk are the same files.

    Raises ArtifactError.
    """
    weights = [folder / artifact.WEIGHTS, folder / DENSE / artifact.WEIGHTS]
    stamps = tuple((s.st_ino, s.st_mtime_ns, s.st_size) for s in (path.stat() for path in weights if path.is_file()))
    key = ("variants", folder.resolve(), stamps, allow_import)
    return once(None, key, lambda: _loaded(folder, allow_import=allow_import))


def _loaded(folder: Path, *, allow_import: bool) -> dict[str, nn.Module]:
    model = artifact.load(folder, allow_import=allow_import).eval()
    if artifact.read_plan(folder) is None:
        return {"dense": model}
    trained = folder / DENSE
    if trained.is_dir():
        dense = artifact.load(trained, allow_import=allow_import)
    else:
        dense = artifact.dense(folder, allow_import=allow_import)
    return {"dense": dense.eval(), "pruned": model}


def learned_by_variant(folder: Path, names: Iterable[str]) -> dict[str, dict[str, Range]]:
    """The ranges from quantisation-aware training, by variant; variants without that training are left out."""
    *dense_variants, artifact_variant = names
    places = {artifact_variant: folder, **dict.fromkeys(dense_variants, folder / DENSE)}
    learned = {name: learned_ranges(path) for name, path in places.items() if path == folder or path.is_dir()}
    return {name: ranges for name, ranges in learned.items() if ranges is not None}


def inputs_of(folder: Path, input_shape: tuple[int, ...] | None, *, batch: int, seed: int) -> Tensor:
    """Seeded noise of the shape that was given, else of the one that the artifact says. Raises ArtifactError."""
    shape = input_shape or artifact.Artifact.open(folder).source.input_shape
    if shape is None:
        raise ArtifactError(f"{folder} does not say what its model takes. Give its shape, such as 3x224x224 (--input)")
    return example_inputs(shape, batch=batch, seed=seed)
