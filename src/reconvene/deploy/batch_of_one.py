"""Batches that a file takes: one that is larger than the file's own is run piece by piece."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from reconvene.deploy.model_io import batch_size, leaves, take_samples
from reconvene.deploy.tracing import in_order
from reconvene.errors import ModelError


def pieces(example_inputs: Any, batch: int | None, file: str) -> list[Any]:
    """The example inputs as calls of a file for ``batch`` examples take them. Raises ModelError where none fit."""
    size = batch_size(example_inputs)
    if batch is None or size == batch:
        return [example_inputs]
    if size % batch:
        raise ModelError(f"the {file} file takes batches of {batch}, but was given {size} examples")
    return [take_samples(example_inputs, start, batch) for start in range(0, size, batch)]


def static_batch(shapes: Sequence[Sequence[Any]]) -> int | None:
    """The first dimension of the first input that has one; ``None`` where the file leaves it open."""
    first = next((shape[0] for shape in shapes if len(shape)), None)
    return first if isinstance(first, int) else None


def joined(rows: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The outputs of all pieces as those of one batch."""
    if len(rows) == 1:
        return rows[0]
    return {name: _one_batch(name, [row[name] for row in rows]) for name in rows[0]}


def _one_batch(name: str, parts: list[Tensor]) -> Tensor:
    if parts[0].ndim:
        return torch.cat(parts)
    if any(not torch.equal(part, parts[0]) for part in parts):
        raise ModelError(
            f"{name!r} is one number a call, and differs between the {len(parts)} calls that these examples take. Give "
            "as many examples as the file takes in one call"
        )
    return parts[0]


class SingleSession:
    """A file without a free batch, whose inputs and outputs have no names of the model's.

    Give ``once`` (a call on prepared inputs, returning outputs) and ``prepare``; the batch is taken apart here.
    """

    def __init__(self, runtime: str, shapes: list[tuple[int, ...]], batch: int = 1) -> None:
        self.runtime, self.shapes = runtime, shapes
        self.batch: int | None = batch

    def prepare(self, tensors: list[Tensor]) -> Any:
        """One sample's tensors in the runtime's own form."""
        raise NotImplementedError

    def once(self, prepared: Any) -> list[Tensor]:
        """One inference. The outputs may be overwritten by the next."""
        raise NotImplementedError

    def bind(self, example_inputs: Any) -> Callable[[], object]:
        """See Session."""
        samples = self._samples(example_inputs)
        if len(samples) == 1:
            return lambda: self.once(samples[0])
        return lambda: [self.once(sample) for sample in samples]

    def run(self, example_inputs: Any) -> dict[str, Tensor]:
        """See Session. Outputs are called ``output``, ``output_1``: these files have no names of the model's."""
        rows = [[output.clone() for output in self.once(sample)] for sample in self._samples(example_inputs)]
        return joined([dict(zip(_names(len(row)), row, strict=True)) for row in rows])

    def _samples(self, example_inputs: Any) -> list[Any]:
        inputs = in_order(example_inputs)
        calls = [leaves(piece) for piece in pieces(inputs, self.batch, self.runtime)]
        shapes = [tuple(tensor.shape) for tensor in calls[0]]
        if shapes != self.shapes:
            raise ModelError(f"the {self.runtime} file takes inputs of shape {self.shapes}, but was given {shapes}")
        return [self.prepare([tensor.detach().cpu().contiguous() for tensor in call]) for call in calls]


def _names(count: int) -> list[str]:
    return ["output"] if count == 1 else [f"output_{i}" for i in range(count)]
