"""A few examples for a repair or a plan of bits, spread over all of the data, since data may be sorted by class."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sized
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils.data import BatchSampler, DataLoader, IterableDataset

from reconvene.criteria.batches import Batches, batch_count, samples_in
from reconvene.criteria.channels.derivatives import single_examples
from reconvene.structure import tensors_in
from reconvene.structure.inputs import copied
from reconvene.structure.restore import kept_random_state
from reconvene.utils.arrays import Ints
from reconvene.utils.sampling import spread_places, stays

MOST_VALUES = 2**25
"""Numbers in the inputs of the examples that go through the networks at once."""


def few_of(data: Iterable[Any], most: int) -> Iterable[Any]:
    """A loader of ``most`` examples, spread over those of ``data``; ``data`` where that would save nothing.

    Only loaders whose data set gives examples by their index can leave the others unread. Where a sampler of the user's
    own puts batches together, whole batches are left out.
    """
    plain = type(data).__iter__ is DataLoader.__iter__ if isinstance(data, DataLoader) else False
    if not plain or not isinstance(data, DataLoader) or isinstance(data.dataset, IterableDataset):
        return data
    sampler = data.batch_sampler
    if type(sampler) is BatchSampler and isinstance(sampler.sampler, Sized):
        return _FewOfLoader(data, most) if len(sampler.sampler) > most else data
    return _FewBatches(data, most) if isinstance(sampler, Sized) else data


@dataclass(frozen=True, eq=False)
class _FewOfLoader:
    """The same number of examples from each stretch of a loader's data set, in batches that mix all stretches."""

    loader: DataLoader[Any]
    most: int

    def __iter__(self) -> Iterator[Any]:
        sampler = self.loader.batch_sampler
        assert isinstance(sampler, BatchSampler)
        order = [index for indices in _drawn(self.loader) for index in indices]
        chosen = [order[place] for place in spread_places(len(order), self.most)]
        count = -(-len(chosen) // sampler.batch_size)
        yield from _loader_of(self.loader, [chosen[number::count] for number in range(count)])

    def __len__(self) -> int:
        assert isinstance(self.loader.batch_sampler, BatchSampler)
        return -(-self.most // self.loader.batch_sampler.batch_size)


@dataclass(frozen=True, eq=False)
class _FewBatches:
    """As many whole batches of a loader, spread over all of them, as hold ``most`` examples."""

    loader: DataLoader[Any]
    most: int

    def __iter__(self) -> Iterator[Any]:
        batches = [list(indices) for indices in _drawn(self.loader)]
        examples = sum(map(len, batches))
        count = len(batches) if examples <= self.most else -(-self.most * len(batches) // examples)
        yield from _loader_of(self.loader, [batches[place] for place in spread_places(len(batches), count)])


def _drawn(loader: DataLoader[Any]) -> list[Any]:
    """The indices of every batch; the random state is as before, as a loader of all examples would find it."""
    with kept_random_state():
        return list(loader.batch_sampler or ())


def _loader_of(loader: DataLoader[Any], batches: list[list[Any]]) -> DataLoader[Any]:
    """The same loader with these batches."""
    return DataLoader(
        loader.dataset,
        batch_sampler=batches,
        num_workers=loader.num_workers,
        collate_fn=loader.collate_fn,
        pin_memory=loader.pin_memory,
        timeout=loader.timeout,
        worker_init_fn=loader.worker_init_fn,
        multiprocessing_context=loader.multiprocessing_context,
        generator=loader.generator,
        prefetch_factor=loader.prefetch_factor,
    )


def gathered(batches: Iterable[Any], most: int, *, to_the_end: bool) -> list[Any]:
    """At most ``most`` examples of some batches of inputs, joined as far as their shapes allow.

    Fewer where their inputs hold more than ``MOST_VALUES`` numbers. All batches are read, with ``to_the_end``, and
    examples of all of them taken alike; else the first. What is no list of examples is that of the first batch.
    """
    collected, limit = _Collected(), most
    for inputs in batches:
        size = samples_in(inputs)
        each = sum(tensor.numel() for tensor in tensors_in(inputs)) // max(size, 1)
        limit = max(min(limit, MOST_VALUES // max(each, 1)), 1)
        collected.add(inputs, size)
        if not to_the_end and collected.held >= limit:
            break
        collected.halve_beyond(limit)
    return _joined(collected.parts, collected.held, limit)


def few_single_examples(
    data: Iterable[Any], most: int, *, user: str, device: torch.device, seed: int, names: Collection[str]
) -> list[tuple[Any, Any]]:
    """At most ``most`` examples with their targets, each as a batch of one; of data without a length the first.

    The other arguments are those of ``Batches``.
    """
    few, collected = few_of(data, most), _Collected()
    to_the_end = batch_count(few) is not None
    for example in single_examples(Batches(few, user=user, device=device, seed=seed, names=names)):
        collected.add(copied(example), 1)  # a view would hold its whole batch
        if not to_the_end and collected.held == most:
            break
        collected.halve_beyond(most)
    return [collected.parts[place].inputs for place in spread_places(collected.held, most)]


@dataclass(frozen=True, eq=False)
class _Part:
    """Examples of one batch: ``numbers`` are their places in all of the data."""

    inputs: Any
    numbers: Ints
    size: int

    def thinned(self, halvings: int) -> _Part:
        """Only those that stay after so many halvings of all examples."""
        rows = np.flatnonzero(stays(self.numbers, halvings))
        if len(rows) == self.size:
            return self
        return _Part(taken(self.inputs, rows), self.numbers[rows], len(rows))


@dataclass(eq=False)
class _Collected:
    """Examples of data whose end is not known: halved where there are too many, so that few are held at any time."""

    parts: list[_Part] = field(default_factory=list)
    read: int = 0
    held: int = 0
    halvings: int = 0

    def add(self, inputs: Any, size: int) -> None:
        """Take from the next ``size`` examples those that stay after the halvings so far."""
        part = _Part(inputs, np.arange(self.read, self.read + size), size).thinned(self.halvings)
        self.parts += [part] if part.size else []
        self.read, self.held = self.read + size, self.held + part.size

    def halve_beyond(self, limit: int) -> None:
        """Halve all examples until no more than two limits are held."""
        while self.held > 2 * limit:
            self.halvings += 1
            self.parts = [thinned for part in self.parts if (thinned := part.thinned(self.halvings)).size]
            self.held = sum(part.size for part in self.parts)


def taken(inputs: Any, rows: Ints) -> Any:
    """These examples of a batch."""
    size, places = samples_in(inputs), torch.from_numpy(rows)
    return pytree.tree_map_only(Tensor, lambda t: t[places.to(t.device)] if t.ndim and len(t) == size else t, inputs)


def _joined(parts: list[_Part], held: int, limit: int) -> list[Any]:
    """Batches of equal shapes in one, and of each of these its share of ``limit`` examples.

    Who cuts their rows in halves gets like halves: examples of all of the data are in both.
    """
    alike: dict[Any, list[_Part]] = {}
    for part in parts:
        tensors = tensors_in(part.inputs)
        shapes = tuple(tuple(t.shape[1:] if t.ndim and len(t) == part.size else t.shape) for t in tensors)
        alike.setdefault((repr(pytree.tree_structure(part.inputs)), shapes), []).append(part)
    joined = []
    for group in alike.values():
        size = sum(part.size for part in group)
        inputs = pytree.tree_map(_concatenated([part.size for part in group]), *(part.inputs for part in group))
        if held > limit:
            rows = spread_places(size, max(size * limit // held, 1))
            inputs = taken(inputs, np.concatenate([rows[::2], rows[1::2]]))
        joined.append(inputs)
    return joined


def _concatenated(sizes: list[int]) -> Any:
    def concatenated(*same: Any) -> Any:
        lists = all(isinstance(t, Tensor) and t.ndim and len(t) == size for t, size in zip(same, sizes, strict=True))
        return torch.cat(same) if lists else same[0]

    return concatenated
