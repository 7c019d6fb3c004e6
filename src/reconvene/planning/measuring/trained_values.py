"""Networks with values as training leaves them: files store equal tensors once, and untrained networks have many."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from reconvene.structure.copies import copy_model
from reconvene.utils.module_tree import named_modules
from reconvene.utils.norms import keeps_statistics

_CHANGE = 0.01


def with_trained_values(model: nn.Module) -> nn.Module:
    """A copy in which no two tensors of weights, biases or statistics are equal; the same values in every call.

    Each value is changed by a random share of at most 1 %, and zeros become at most 0.01. So networks compute nearly
    what they did, and their files are as large as they are after training.
    """
    trained = copy_model(model)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, tensor in _changed_by_training(trained):
            noise = _CHANGE * (2 * torch.rand(tensor.shape, generator=generator) - 1)
            if name.endswith("running_var"):  # never negative
                noise = noise.abs()
            noise = noise.to(tensor)
            tensor.copy_(torch.where(tensor == 0, noise, tensor * (1 + noise)))
    return trained


def _changed_by_training(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Parameters, and the buffers of norms that keep statistics, each once, by name."""
    tensors: dict[int, tuple[str, Tensor]] = {}
    for path, module in named_modules(model):
        own: list[tuple[str, Tensor]] = [*module.named_parameters(recurse=False)]
        own += [*module.named_buffers(recurse=False)] if keeps_statistics(module) else []
        for name, tensor in own:
            tensors.setdefault(id(tensor), (f"{path}.{name}", tensor))
    return ((name, tensor) for name, tensor in tensors.values() if tensor.is_floating_point())
