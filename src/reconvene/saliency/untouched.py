"""Borrow a user's model and the random state, and give both back as they were."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from reconvene.structure.borrowed import kept_attributes, kept_random_state


@contextmanager
def untouched(model: nn.Module, *, seed: int | None = None) -> Iterator[None]:
    """Within: ``model`` in eval mode, gradients on, no autocast, random state seeded. After: everything as before.

    The values of weights, buffers and gradients are safe because callers run the model on stand-ins
    (``torch.func.functional_call``) and never call ``backward``.
    """
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    accelerators = [device] if device.type == "cuda" else []
    with (
        kept_random_state(accelerators),
        torch.inference_mode(False),
        torch.enable_grad(),
        torch.autocast(device.type, enabled=False),
        # Modes; what a forward pass notes on modules; and where one module has two names, ``functional_call`` puts the
        # first swap back in place of its tensors.
        kept_attributes(model),
    ):
        if seed is not None:
            torch.manual_seed(seed)
        model.eval()
        yield
