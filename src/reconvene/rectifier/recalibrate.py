"""Statistics of norms, taken again from data: what a cut network, or one whose norms follow slowly, needs first."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from reconvene.criteria.batches import Batches, argument_names, loader_examples, samples_in
from reconvene.criteria.gradients import explained
from reconvene.errors import DataError
from reconvene.rectifier.calibration import undisturbed
from reconvene.structure import call
from reconvene.utils.norms import keeps_statistics
from reconvene.utils.progress import stage

_EXAMPLES = 2000


def recalibrate(
    model: nn.Module,
    data: Iterable[Any] | None,
    example_inputs: Any = None,
    *,
    examples: int = _EXAMPLES,
    seed: int = 0,
) -> list[str]:
    """Take the running statistics of every norm again, in place; the names of these norms.

    They are reset and become the plain mean over batches, with norms alone in train mode and no gradients; everything
    else, and every mode, is as before. A network without such norms is left alone and its data are not read.

    Args:
        model: the network.
        data: batches as ``Batches`` takes them; targets are not read.
        example_inputs: say which entries of batches that are mappings the model takes; else its signature does.
        examples: no further batch is read once so many examples were.
        seed: of what the data draws.

    Raises:
        DataError: there are no data, or a batch does not fit.
    """
    norms = {name: module for name, module in model.named_modules() if keeps_statistics(module)}
    if not norms:
        return []
    work_name, total = "recalibrating norms", min(examples, _count(data) or examples)
    with undisturbed(model, seed=seed), averaging(norms.values()), stage(work_name, total, summary=False) as work:
        for norm in norms.values():
            _reset(norm)
        samples = 0
        for number, inputs in enumerate(inputs_of(model, data, example_inputs, "recalibrate", seed)):
            with explained("rectify how='recalibrate'", number, DataError):
                call(model, inputs)
            samples += samples_in(inputs)
            work.move_to(min(samples, total), detail=f"batch {number}")
            if samples >= examples:
                break
    return list(norms)


def _count(data: Iterable[Any] | None) -> int | None:
    """Examples that data hold, where they say so without being read: a loader of a data set, or a list of batches."""
    if isinstance(data, (list, tuple)):
        return sum(map(samples_in, data))
    return loader_examples(data)


def inputs_of(model: nn.Module, data: Iterable[Any] | None, example_inputs: Any, how: str, seed: int) -> Iterator[Any]:
    """The inputs of every batch, where the model is. Raises DataError without data."""
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    names = argument_names(model, example_inputs)
    user = f"rectify how={how!r}"
    batches = Batches(data, user=user, device=device, seed=seed, names=names, labelled=False, error=DataError)
    return (inputs for inputs, _ in batches)


@contextmanager
def averaging(norms: Iterable[nn.Module], *, momentum: float | None = None) -> Iterator[None]:
    """Within: norms see the statistics of the batch, and keep their plain average, or the last ones (momentum 1)."""
    before = [(norm, getattr(norm, "momentum", None), norm.training) for norm in norms]
    try:
        for norm, _, _ in before:
            norm.momentum, norm.training = momentum, True  # type: ignore[assignment]
        yield
    finally:
        for norm, old, training in before:
            norm.momentum, norm.training = old, training  # type: ignore[assignment]


def _reset(norm: nn.Module) -> None:
    for name, value in (("running_mean", 0.0), ("running_var", 1.0), ("num_batches_tracked", 0)):
        tensor = getattr(norm, name, None)
        if isinstance(tensor, Tensor):
            tensor.fill_(value)
