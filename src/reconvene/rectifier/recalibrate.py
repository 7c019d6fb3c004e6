"""Statistics of norms, taken again from data: what a cut network, or one whose norms follow slowly, needs first."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from itertools import chain, islice
from typing import Any

from torch import Tensor, nn

from reconvene.criteria.batches import Batches, LeftOver, argument_names, batch_count, loader_examples, samples_in
from reconvene.criteria.few_examples import few_of
from reconvene.criteria.gradients import explained
from reconvene.errors import DataError
from reconvene.rectifier.calibration import undisturbed
from reconvene.structure.fresh import call_afresh, know_state
from reconvene.utils.module_tree import device_of
from reconvene.utils.norms import averages_statistics
from reconvene.utils.progress import stage

_EXAMPLES = 2000
_START = {"running_mean": 0.0, "running_var": 1.0, "num_batches_tracked": 0}


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
    else, and every mode, is as before. A network without such norms is left alone and its data are not read. Norms that
    no batch reached, and norms whose statistics nothing updates (frozen batch norms), keep what they have. A single
    example that is left over behind larger batches is not read, since it may have no variance.

    Data may be sorted by class. Of a ``DataLoader`` whose data set has indices, examples are spread evenly over all
    data and mixed in every batch; of other data that say how many batches they hold, whole batches are, and a variance
    is only as good as the mixture of classes within a batch. Data without a length may never end: their first examples
    are taken, as are all examples of data that hold no more.

    Args:
        model: the network.
        data: batches as ``Batches`` takes them; targets are not read.
        example_inputs: say which entries of batches that are mappings the model takes; else its signature does.
        examples: no further batch is taken once so many examples were.
        seed: of what the data draws.

    Raises:
        DataError: there are no data, or a batch does not fit. The statistics are then as before.
    """
    norms = {name: module for name, module in model.named_modules() if averages_statistics(module)}
    if not norms:
        return []
    few = data if data is None else few_of(data, examples)
    batches = iter(inputs_of(model, few, example_inputs, "recalibrate", seed))
    held = _count(data)
    work_name, total = "recalibrating norms", min(examples, held or examples)
    stretches = batch_count(data) if few is data and (held is None or held > examples) else None
    with undisturbed(model, seed=seed), ExitStack() as stack, stage(work_name, total, summary=False) as work:
        first = list(islice(batches, 1))
        for inputs in first:
            know_state(model, inputs)  # before the hooks of norms, which the recorded pass must not meet
        calls = stack.enter_context(_fresh_statistics(norms))
        samples, left_over = 0, LeftOver(model)
        for number, inputs in enumerate(chain(first, batches)):
            ahead = stretches is not None and samples * stretches >= examples * (number + 1)
            if left_over.is_next(inputs) or ahead:
                continue
            with explained("rectify how='recalibrate'", number, DataError):
                call_afresh(model, inputs)
            samples += samples_in(inputs)
            work.move_to(min(samples, total), detail=f"batch {number}")
            if samples >= examples:
                break
    return [name for name in norms if calls[name]]


@contextmanager
def _fresh_statistics(norms: Mapping[str, nn.Module]) -> Iterator[Counter[str]]:
    """Within: statistics begin anew and average what each call reads; how often each norm was called.

    Afterwards norms that were never called have their old statistics again; all have, where an error occurred.
    """
    before = {name: {part: tensor.clone() for part, tensor in _statistics(norm)} for name, norm in norms.items()}
    calls: Counter[str] = Counter()

    def averaged(name: str, norm: nn.Module) -> None:
        calls[name] += 1
        norm.momentum = 1 / calls[name]  # type: ignore[assignment]  # instance norms read None as zero

    hooks = [
        norm.register_forward_pre_hook(lambda norm, _, name=name: averaged(name, norm)) for name, norm in norms.items()
    ]
    lost: Iterable[str] = norms
    try:
        with following(norms.values(), momentum=1.0):
            for norm in norms.values():
                for part, tensor in _statistics(norm):
                    tensor.fill_(_START[part])
            yield calls
        lost = [name for name in norms if not calls[name]]
    finally:
        for hook in hooks:
            hook.remove()
        for name in lost:
            for part, tensor in _statistics(norms[name]):
                tensor.copy_(before[name][part])


def _statistics(norm: nn.Module) -> list[tuple[str, Tensor]]:
    """The running statistics of a norm, and how many batches they are of."""
    parts = [(part, getattr(norm, part, None)) for part in _START]
    return [(part, tensor) for part, tensor in parts if isinstance(tensor, Tensor)]


def _count(data: Iterable[Any] | None) -> int | None:
    """Examples that data hold, where they say so without being read: a loader of a data set, or a list of batches."""
    if isinstance(data, (list, tuple)):
        return sum(map(samples_in, data))
    return loader_examples(data)


def inputs_of(model: nn.Module, data: Iterable[Any] | None, example_inputs: Any, how: str, seed: int) -> Iterator[Any]:
    """The inputs of every batch, where the model is. Raises DataError without data."""
    device = device_of(model)
    names = argument_names(model, example_inputs)
    user = f"rectify how={how!r}"
    batches = Batches(data, user=user, device=device, seed=seed, names=names, labelled=False, error=DataError)
    return (inputs for inputs, _ in batches)


@contextmanager
def following(norms: Iterable[nn.Module], *, momentum: float) -> Iterator[None]:
    """Within: norms compute with the statistics of what they read, and keep these with this momentum (1: the last)."""
    before = [(norm, norm.momentum, norm.training) for norm in norms]
    try:
        for norm, _, _ in before:
            norm.momentum, norm.training = momentum, True  # type: ignore[assignment]
        yield
    finally:
        for norm, old, training in before:
            norm.momentum, norm.training = old, training
