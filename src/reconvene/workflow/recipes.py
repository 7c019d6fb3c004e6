"""Recipes of training that follow from what an artifact holds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from reconvene import artifact
from reconvene.training import TrainConfig
from reconvene.workflow.origin import DENSE

REWOUND = 0.25
"""Share of the schedule that is gone through again where nothing says how long the dense network was trained."""


def usual_recipe(directory: str | Path, epochs: int, *, own_rate: bool = False) -> TrainConfig:
    """The recipe by which an artifact is trained where none is given.

    Fresh weights go through the whole schedule. Weights that were trained elsewhere, or kept when channels left, go
    through the end of it: its highest rate would undo them. With ``own_rate`` the caller sets a rate or a schedule,
    which then is the whole one. Raises ArtifactError.
    """
    folder = Path(directory)
    if not artifact.Artifact.open(folder).keeps_weights:
        return TrainConfig()
    dense = folder / DENSE
    known = (dense / artifact.MANIFEST).exists()
    recipe = rewound(artifact.Artifact.open(dense).training if known else None, epochs)
    return replace(recipe, tail=1.0) if own_rate else recipe


def rewound(training: artifact.Training | None, epochs: int) -> TrainConfig:
    """The recipe that a network was trained by, at its last ``epochs`` (learning-rate rewinding, arXiv 2003.02389).

    The usual recipe at its last quarter where nobody knows how the network was trained.
    """
    if training is None:
        return TrainConfig(tail=REWOUND)
    names = set(TrainConfig.__dataclass_fields__) - {"checkpoint_seconds", "device", "sparsity"}
    recipe = {name: value for name, value in training.asked.items() if name in names}
    return replace(TrainConfig(**recipe), tail=min(1.0, max(epochs, 1) / max(training.epochs, 1)))
