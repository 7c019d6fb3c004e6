"""Training an artifact: it goes from untrained to trained in one step; until then a checkpoint lies beside it."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from reconvene import artifact
from reconvene.data import Dataset
from reconvene.errors import TrainingError
from reconvene.pipeline.prune import PREPROCESSING
from reconvene.pipeline.steps import Steps, quiet
from reconvene.training import TrainConfig
from reconvene.training import train as train_model
from reconvene.training.checkpoint import CHECKPOINT_NAME


@dataclass(frozen=True)
class Training:
    """What came out of training: ``accuracy`` in [0, 1] and ``loss`` on the test split; ``seconds`` of all parts."""

    epochs: int
    dataset: str
    accuracy: float
    loss: float
    per_class: dict[str, float]
    seconds: float
    asked: dict[str, Any]

    def __str__(self) -> str:
        return (
            f"{self.epochs} {'epoch' if self.epochs == 1 else 'epochs'} on {self.dataset} in {self.seconds:.1f} s: "
            f"accuracy {self.accuracy:.2%}, loss {self.loss:.4f} on the test images"
        )


def train(
    directory: str | Path,
    dataset: Dataset,
    *,
    epochs: int,
    config: TrainConfig = TrainConfig(),  # noqa: B008  # frozen
    again: bool = False,
    resume: bool = True,
    allow_import: bool = False,
    what: str = "training",
    steps: Steps = quiet,
) -> Training:
    """Train the model of an artifact on ``dataset`` and keep the trained weights and what was measured in it.

    The artifact keeps its untrained weights until training has finished. A run that was stopped goes on from its
    checkpoint when called again with the same arguments, and a finished one returns what it found at once.

    Args:
        again: train a trained artifact on, from its trained weights.
        resume: go on from a checkpoint where there is one; otherwise start over.

    Raises TrainingError: among others, when the artifact was trained in another way already and ``again`` is not set.
    """
    folder = Path(directory)
    asked = _asked(dataset, epochs, config)
    done = artifact.manifest(folder).measurements.get("training")
    if done is not None and not again:
        if done["asked"] != asked:
            raise TrainingError(
                f"{folder} was trained already, for {done['epochs']} epochs on {done['dataset']}. "
                "To train on from its weights: again=True (--again)"
            )
        return Training(**done)
    model = artifact.load(folder, allow_import=allow_import)
    with steps(what, True):
        result = train_model(
            model,
            dataset,
            epochs=epochs,
            directory=folder,
            config=config,
            resume=resume,
            progress=steps is not quiet,
        )
    evaluation = result.evaluation
    training = Training(
        epochs, str(dataset), evaluation.accuracy, evaluation.loss, evaluation.per_class, result.seconds, asked
    )
    if int(os.environ.get("RANK", "0")) == 0:  # under torchrun every process comes here, one of them writes
        facts = {"training": asdict(training), PREPROCESSING: dataset.preprocessing.to_dict()}
        artifact.save(model, folder, extra={**artifact.manifest(folder).measurements, **facts})
        (folder / CHECKPOINT_NAME).unlink(missing_ok=True)  # what it was for is in the artifact now
    return training


def _asked(dataset: Dataset, epochs: int, config: TrainConfig) -> dict[str, Any]:
    """What makes a training run this one. How often it saves does not."""
    recipe = asdict(config)
    del recipe["checkpoint_seconds"]
    return {"epochs": epochs, "pixels": dataset.sha256, **recipe}
