"""Sessions of runtimes whose files are for a batch of one: a larger batch is run sample by sample."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from reconvene.deploy.calling import batch_size, leaves, take
from reconvene.deploy.tracing import in_order
from reconvene.errors import ModelError


class SingleSession:
    """Give ``once`` (a call on prepared inputs, returning outputs) and ``prepare``; the batch is taken apart here."""

    def __init__(self, runtime: str, shapes: list[tuple[int, ...]]) -> None:
        self.runtime, self.shapes = runtime, shapes

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
        joined = [torch.cat(parts) if parts[0].ndim else torch.stack(parts) for parts in zip(*rows, strict=True)]
        return {"output" if i == 0 and len(joined) == 1 else f"output_{i}": value for i, value in enumerate(joined)}

    def _samples(self, example_inputs: Any) -> list[Any]:
        inputs = in_order(example_inputs)
        singles = [leaves(take(inputs, i, 1)) for i in range(batch_size(inputs))]
        found = [tuple(tensor.shape) for tensor in singles[0]]
        if found != self.shapes:
            raise ModelError(f"the {self.runtime} file takes inputs of shape {self.shapes}, but was given {found}")
        return [self.prepare([tensor.detach().cpu().contiguous() for tensor in single]) for single in singles]
