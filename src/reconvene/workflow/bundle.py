"""The bundle of an artifact: its exports with the pre-processing and labels it was trained on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from reconvene.artifact import Artifact
from reconvene.data import Dataset, Preprocessing
from reconvene.data.source import stratified
from reconvene.deploy import Bundled, Exported, write_bundle
from reconvene.errors import ExportError
from reconvene.tasks import DEFAULT
from reconvene.utils.progress import stage
from reconvene.workflow.inputs import preparation

TEST_IMAGES = 16


def bundle(
    directory: str | Path,
    path: str | Path,
    *,
    exports: Sequence[Exported],
    dataset: Dataset | None = None,
    seed: int = 0,
) -> Bundled:
    """Put exports of an artifact's model into a bundle that classifies images on a device.

    Args:
        path: of the archive, ``NAME.tar.gz``.
        exports: what ``export`` returned for the artifact's own model.
        dataset: whose test images the device tests itself with; without it, seeded noise.

    Raises ArtifactError: what the model takes is not known, since it was neither trained nor given a dataset.
    DataError: a dataset of other classes or another shape than it was trained on. ExportError.
    """
    stored = Artifact.open(Path(directory))
    preprocessing = bundled_preprocessing(stored, dataset)
    if dataset is None:
        images, origin = _noise(preprocessing, seed), f"noise, seed {seed}"
    else:
        rows = stratified(dataset.stratum_of(dataset.test).numpy(), min(TEST_IMAGES, len(dataset.test)), seed=seed)
        images = dataset.test.images[rows].numpy()
        origin = f"{len(images)} test images of {dataset.name}"
    with stage(f"bundling {path}"):
        return write_bundle(
            path,
            exports,
            preprocessing=preprocessing,
            images=images,
            images_from=origin,
            model=stored.source.address,
            results=results(stored),
        )


def bundled_preprocessing(
    stored: Artifact, dataset: Dataset | None, input_shape: tuple[int, ...] | None = None
) -> Preprocessing:
    """What the images of a bundle go through; files are exported for ``input_shape``, by default for that shape.

    Raises ArtifactError and DataError as ``bundle`` does; ExportError for a model of another task or files of another
    shape.
    """
    recorded = stored.preprocessing
    if recorded is not None and input_shape is not None and tuple(input_shape) != recorded.shape:
        exported, trained = ("x".join(map(str, shape)) for shape in (input_shape, recorded.shape))
        raise ExportError(
            f"a bundle scales images to {trained}, the shape that the model in {stored.folder} was trained for, and "
            f"files for {exported} do not take them. Leave the input shape (--input) out"
        )
    preprocessing = preparation(stored, dataset)
    if preprocessing.task != DEFAULT.name:
        raise ExportError(
            f"a bundle names the class of an image, and the model in {stored.folder} is for {preprocessing.task}. Take "
            "the exported file itself, which any runtime loads"
        )
    return preprocessing


def results(stored: Artifact) -> dict[str, str]:
    """The results of the model as text, by heading; empty for a model whose weights were never trained."""
    training, plan = stored.training, stored.plan
    if not stored.is_trained:
        return {}
    if training is not None:
        texts = {f"test {training.headline}": training.show(training.score), "data": training.dataset}
        texts["epochs"] = str(training.epochs)
    else:
        kept = "kept from the trained network, not tuned after the cut"
        texts = {"weights": kept if plan is not None else "trained before they came into this artifact"}
    if plan is not None:
        dense, pruned = plan.costs["dense"], plan.costs["pruned"]
        texts |= {name: f"{pruned[name]:,} of {dense[name]:,}" for name in ("params", "macs") if name in pruned}
    return texts


def _noise(preprocessing: Preprocessing, seed: int) -> NDArray[np.uint8]:
    generator = np.random.Generator(np.random.PCG64(seed))
    return generator.integers(0, 256, size=(TEST_IMAGES, *preprocessing.shape), dtype=np.uint8)
