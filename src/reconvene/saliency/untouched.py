"""Borrow a user's model and the random state, and give both back as they were."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from reconvene.structure.borrowed import kept_attributes


@contextmanager
def untouched(model: nn.Module, *, seed: int | None = None) -> Iterator[None]:
    """Within: ``model`` in eval mode, gradients on, no autocast, random state seeded. After: everything as before.

    The mode is kept module by module, since a user may have frozen some. Weights, buffers and gradients are safe
    because callers run the model on stand-ins (``torch.func.functional_call``) and never call ``backward``.
    """
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    accelerators = [device] if device.type == "cuda" else []
    modes = [(module, module.training) for module in model.modules()]
    # ``functional_call`` puts the first swap back where one module has two names, so the tensors are kept here as well.
    tensors = [(store, dict(store)) for module in model.modules() for store in (module._parameters, module._buffers)]
    with (
        torch.random.fork_rng(devices=accelerators),
        torch.inference_mode(False),
        torch.enable_grad(),
        torch.autocast(device.type, enabled=False),
        kept_attributes(model),  # a forward pass on a smaller input may note that on its modules
    ):
        if seed is not None:
            torch.manual_seed(seed)
        try:
            model.eval()
            yield
        finally:
            for module, training in modes:
                module.training = training
            for store, own in tensors:
                store.clear()
                store.update(own)  # type: ignore[arg-type]
