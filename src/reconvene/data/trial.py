"""A trial of a model on two images, before hours of work depend on it."""

from __future__ import annotations

import torch
from torch import nn

from reconvene.data.dataset import Dataset
from reconvene.errors import MODEL_REFUSALS, TrainingError
from reconvene.structure.fresh import call_afresh
from reconvene.utils.module_state import evaluating
from reconvene.utils.module_tree import device_of


def try_model(model: nn.Module, dataset: Dataset, *, role: str = "the model") -> None:
    """Run the model on two training images, on its device and in eval mode, and let the task check the output.

    ``role`` is the name of the model in errors.

    Raises:
        TrainingError: the model does not run on the images of this dataset, or the task cannot read its output.
    """
    device = device_of(model)
    images, targets = dataset.train.images[:2], dataset.train.targets[:2]
    with evaluating(model), torch.no_grad():
        try:
            output = call_afresh(model, dataset.normalise(images.to(device)))
        except MODEL_REFUSALS as error:
            shape = "x".join(map(str, dataset.shape))
            raise TrainingError(f"{role} does not run on {dataset.name}'s images {shape}: {error}") from error
    dataset.task.check(output, targets, classes=dataset.classes, data=dataset.name, role=role)
