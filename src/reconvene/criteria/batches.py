"""The data a data-driven criterion looks at: any iterable of ``(inputs, target)`` batches."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from reconvene.errors import CriterionError
from reconvene.structure.inputs import map_tensors, tensors_in

EXPECTED = "data= takes an iterable of (inputs, target) batches: a DataLoader, a list, a generator"


class Batches:
    """A data iterable that can be passed over again, in the same order, and says what it holds.

    A one-shot iterator (a generator) is kept in memory; what can be iterated again (a ``DataLoader``) is, under the
    same random seed each time. Batches come out on ``device``. Counts are those of the latest complete pass.
    """

    def __init__(self, data: Iterable[Any] | None, *, criterion: str, device: torch.device, seed: int) -> None:
        if data is None:
            raise CriterionError(f"criterion {criterion!r} scores weights by data, and got none. {EXPECTED}.")
        if isinstance(data, (Tensor, str, bytes)) or not isinstance(data, Iterable):
            raise CriterionError(f"criterion {criterion!r} got data of type {type(data).__name__}. {EXPECTED}.")
        self._criterion, self._device, self._seed = criterion, device, seed
        self._name = str(data) if type(data).__str__ is not object.__str__ else None
        self._data = list(data) if iter(data) is data else data
        self._counts = (0, 0, 0)

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        torch.manual_seed(self._seed)
        batches = samples = 0
        classes: set[int] = set()
        for batch in self._data:
            if not isinstance(batch, (tuple, list)) or len(batch) != 2:
                raise CriterionError(
                    f"batch {batches} of the data is a {type(batch).__name__}, not a pair. {EXPECTED}."
                )
            inputs, target = map_tensors(lambda tensor: tensor.to(self._device), (batch[0], batch[1]))
            batches += 1
            samples += next((len(tensor) for tensor in tensors_in((target, inputs)) if tensor.ndim), 0)
            if isinstance(target, Tensor) and not target.is_floating_point() and target.ndim == 1:
                classes.update(target.tolist())
            yield inputs, target
        if not samples:
            raise CriterionError(
                f"criterion {self._criterion!r} got empty data: {batches} batches, no samples. {EXPECTED}."
            )
        self._counts = (batches, samples, len(classes))

    def describe(self) -> str:
        """What the criterion saw: the data's own name if it has one, then batches, samples, and classes if any."""
        batches, samples, classes = self._counts
        counts = f"{_plural(batches, 'batch', 'batches')}, {_plural(samples, 'sample', 'samples')}"
        counts += f", {_plural(classes, 'class', 'classes')}" if classes else ""
        return f"{self._name} ({counts})" if self._name else counts


def _plural(count: int, singular: str, plural: str) -> str:
    return f"{count} {singular if count == 1 else plural}"
