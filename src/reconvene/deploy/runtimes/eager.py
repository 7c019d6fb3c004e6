"""The ``eager`` runtime: PyTorch itself, to compare with. It has no file format, and it is no stand-in for a device."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from reconvene.deploy.model_io import in_inference, outputs_of, own_inputs
from reconvene.deploy.runtimes.base import Runtime, Session
from reconvene.errors import ModelError
from reconvene.structure.inputs import call_on, copied


class EagerSession:
    """A module in eval mode."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.batch: int | None = None

    def bind(self, example_inputs: Any) -> Callable[[], object]:
        """See Session."""
        inputs = copied(own_inputs(self.model, example_inputs))
        outputs_of(self.model, copied(inputs))  # raises ModelError for inputs that the model does not take
        return lambda: call_on(self.model, inputs)  # without the time of a copy

    def run(self, example_inputs: Any) -> dict[str, Tensor]:
        """See Session."""
        outputs = outputs_of(self.model, own_inputs(self.model, example_inputs))
        return {name: output.detach().cpu() for name, output in outputs.items()}


@contextmanager
def open_eager(model: nn.Module | Path, threads: int) -> Iterator[Session]:
    """Run a module with so many threads; its mode and the number of threads come back afterwards."""
    if not isinstance(model, nn.Module):
        raise ModelError(f"{model} is a file: the eager runtime runs modules. Give the module, or leave out eager")
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with in_inference(model), torch.inference_mode():
            yield EagerSession(model)
    finally:
        torch.set_num_threads(before)


EAGER = Runtime("eager", None, "", None, None, open_eager, to_run={"torch": "2.13"})
