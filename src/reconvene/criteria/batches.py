"""The data a step looks at: any iterable of batches, whatever a batch is made of."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Iterable, Iterator, Mapping, Sized
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from reconvene.errors import CriterionError, ReconveneError
from reconvene.structure.inputs import map_tensors, tensors_in
from reconvene.structure.restore import kept_random_state, seed_random_state
from reconvene.utils.norms import averages_statistics
from reconvene.utils.progress import track

EXPECTED = "data= takes an iterable of (inputs, target) batches: a DataLoader, a list, a generator"


_UNLABELLED = "Without targets: criterion='group_l2' reads no data, and rectify='reconstruct' inputs alone."


class Batches:
    """A data iterable that can be passed over again, in the same order, and says what it holds.

    A batch is ``(inputs, target)``; ``(inputs, target, target ...)``, whose targets become one tuple; or a mapping,
    whose entries are the inputs that the model takes by these names and, as a whole, the target. Where nothing reads
    targets (``labelled=False``), a tensor and ``(inputs,)`` are batches, too.

    A one-shot iterator (a generator) is kept in memory; what can be iterated again (a ``DataLoader``) is, under the
    same random seed each time. Batches come out on ``device``. Counts are those of the latest complete pass.

    Args:
        data: the iterable.
        user: who reads it, for messages, such as ``criterion 'snip'``.
        device: where batches go.
        seed: of what the iterable draws.
        names: arguments that the model takes by name (``argument_names``), which batches that are mappings need.
        labelled: whether targets are read.
        error: what is raised.
    """

    def __init__(
        self,
        data: Iterable[Any] | None,
        *,
        user: str,
        device: torch.device,
        seed: int,
        names: Collection[str] = (),
        labelled: bool = True,
        error: type[ReconveneError] = CriterionError,
    ) -> None:
        if data is None:
            raise error(f"{user} needs data, and got none. {EXPECTED}.")
        if isinstance(data, (Tensor, str, bytes, Mapping)) or not isinstance(data, Iterable):
            raise error(f"{user} got data of type {type(data).__name__}. {EXPECTED}.")
        self._user, self._device, self._seed, self._names, self._labelled = user, device, seed, names, labelled
        self._error = error
        self._name = str(data) if type(data).__str__ is not object.__str__ else None
        self._data = repeatable(data, seed=seed)
        self._counts = (0, 0, 0)

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        seed_random_state(self._seed, self._device)
        batches = samples = 0
        classes: set[int] = set()
        for batch in track(self._data, "batches of data", total=batch_count(self._data)):
            inputs, target = map_tensors(lambda tensor: _plain(tensor).to(self._device), self._parts(batch, batches))
            batches += 1
            samples += samples_in(inputs, target)
            if isinstance(target, Tensor) and not target.is_floating_point() and target.ndim == 1:
                classes.update(target.tolist())
            yield inputs, target
        if not samples:
            raise self._error(f"{self._user} got empty data: {batches} batches, no samples. {EXPECTED}.")
        self._counts = (batches, samples, len(classes))

    def describe(self) -> str:
        """What was seen: the data's own name if it has one, then batches, samples, and classes if any."""
        batches, samples, classes = self._counts
        counts = f"{_plural(batches, 'batch', 'batches')}, {_plural(samples, 'sample', 'samples')}"
        counts += f", {_plural(classes, 'class', 'classes')}" if classes else ""
        return f"{self._name} ({counts})" if self._name else counts

    def _parts(self, batch: Any, number: int) -> tuple[Any, Any]:
        """Inputs and target of a batch."""
        if isinstance(batch, Mapping):
            inputs = {name: batch[name] for name in self._names if name in batch}
            if not inputs:
                entries, names = ", ".join(map(str, batch)), ", ".join(self._names)
                raise self._error(
                    f"batch {number} of the data is a mapping with {entries}, and the model takes {names or 'none'} "
                    f"by name. {EXPECTED}."
                )
            return inputs, batch
        if isinstance(batch, (tuple, list)) and len(batch) >= 2:
            return batch[0], batch[1] if len(batch) == 2 else tuple(batch[1:])
        if not self._labelled and isinstance(batch, Tensor):
            return batch, None
        if not self._labelled and isinstance(batch, (tuple, list)) and len(batch) == 1:
            return batch[0], None
        without = f" {_UNLABELLED}" if self._labelled else ""
        raise self._error(f"batch {number} of the data is a {type(batch).__name__}, not a pair. {EXPECTED}.{without}")


class LeftOver:
    """Finds a single example that is left over behind larger batches, for networks whose norms need more than one.

    In train mode these take the statistics of the batch, and one example may have no variance.
    """

    def __init__(self, network: nn.Module) -> None:
        self._norms = any(map(averages_statistics, network.modules()))
        self._largest = 0

    def is_next(self, inputs: Any) -> bool:
        """Whether the next batch is such an example. Ask of every batch, in order."""
        size = samples_in(inputs)
        self._largest = max(self._largest, size)
        return self._norms and size == 1 < self._largest


def batch_count(data: Any) -> int | None:
    """How many batches data hold, where they say so without being read."""
    try:
        return len(data) if isinstance(data, Sized) else None
    except TypeError:  # a loader has a length only if its data set has one
        return None


def repeatable(data: Iterable[Any], *, seed: int) -> Iterable[Any]:
    """The data, or a list of what an iterator gives, which can be read once; the random state is afterwards as before.

    ``iter(data) is data`` would not do to tell: asked for an iterator, a ``DataLoader`` draws a seed.
    """
    if not isinstance(data, Iterator):
        return data
    with kept_random_state():
        seed_random_state(seed, torch.device("cpu"))
        return list(data)


def loader_examples(data: Any) -> int | None:
    """Examples of the data set behind a loader, where both say so without being read."""
    return batch_count(data.dataset) if isinstance(data, DataLoader) else None


def samples_in(inputs: Any, target: Any = None, *, axis: int = 0) -> int:
    """Examples of a batch: the length of its first tensor that has one, along the dimension that counts examples.

    Targets come first, since inputs may have time steps before examples, ``[T, N, ...]``.
    """
    return next((tensor.shape[axis] for tensor in tensors_in((target, inputs)) if tensor.ndim > axis), 0)


def argument_names(model: nn.Module, example_inputs: Any) -> tuple[str, ...]:
    """Arguments by name that batches may hold: those of the example inputs, else all that ``forward`` has."""
    if isinstance(example_inputs, Mapping):
        return tuple(example_inputs)
    while isinstance(model, nn.DataParallel):
        model = model.module
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return tuple(name for name, value in inspect.signature(model.forward).parameters.items() if value.kind in kinds)


def _plain(tensor: Tensor) -> Tensor:
    """The tensor, or a copy where it was made in inference mode, whose tensors take part in no gradient."""
    return tensor.clone() if tensor.is_inference() else tensor


def _plural(count: int, singular: str, plural: str) -> str:
    return f"{count} {singular if count == 1 else plural}"
