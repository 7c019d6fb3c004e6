"""How good a model is on a split, as its task measures it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from reconvene.data import Dataset, test_batches
from reconvene.data.dataset import SplitName
from reconvene.errors import TrainingError
from reconvene.structure.fresh import call_afresh
from reconvene.structure.inputs import map_tensors
from reconvene.tasks import Evaluation
from reconvene.training.parallel import World
from reconvene.utils.module_state import evaluating
from reconvene.utils.module_tree import device_of
from reconvene.utils.progress import track


def evaluate_split(
    model: nn.Module,
    dataset: Dataset,
    *,
    split: SplitName = "test",
    batch_size: int = 256,
    world: World | None = None,
) -> Evaluation:
    """Metrics and loss of the dataset's task on one split, on the model's device. The model's modes are restored.

    ``world``: this process does its part and gets the result of all; by default it is alone.

    Raises:
        DataError: a split that is not there, or empty.
        TrainingError: fewer images than processes, or outputs that the task cannot read.
    """
    part = dataset.split(split)
    world = World() if world is None else world
    if len(part) < world.size:
        raise TrainingError(f"{split} of {dataset.name} has {len(part)} images for {world.size} processes. Use fewer")
    device = device_of(model)
    meter = dataset.task.meter(dataset.classes, device)
    steps = -(-len(part) // (batch_size * world.size))
    batches = test_batches(dataset, split=part, batch_size=batch_size, shard=world.shard, device=device)
    with evaluating(model), torch.no_grad():
        for x, y in track(batches, f"evaluating on {dataset.name}", total=steps):
            meter.add(outputs_in_float32(check_output(call_afresh(model, x), y, dataset)), y)
    return meter.evaluation(world.total(meter.totals))


def check_output(output: Any, targets: Tensor, dataset: Dataset) -> Any:
    """The model's output for a batch, if the task can read it. Raises TrainingError with what to change."""
    return dataset.task.check(output, targets, classes=dataset.classes, data=dataset.name)


def outputs_in_float32(output: Any) -> Any:
    """Outputs as tasks take them, whatever they were computed in."""
    return output.float() if isinstance(output, Tensor) else map_tensors(Tensor.float, output)
