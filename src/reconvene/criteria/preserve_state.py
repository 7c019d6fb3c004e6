"""Borrow a user's model and the random state, and give both back as they were."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils import checkpoint

from reconvene.structure.patches import exclusive, patched
from reconvene.structure.restore import kept_attributes, kept_random_state
from reconvene.structure.state import fresh_passes
from reconvene.utils.module_state import afresh_in_eval
from reconvene.utils.module_tree import device_of


@contextmanager
def untouched(model: nn.Module, *, seed: int | None = None) -> Iterator[None]:
    """Within: ``model`` in eval mode, gradients on, no autocast, no checkpoints, random state seeded. After: as before.

    The values of weights, buffers and gradients are safe because callers run the model on stand-ins
    (``torch.func.functional_call``) and never call ``backward``.
    """
    device = device_of(model)
    accelerators = [device] if device.type == "cuda" else []
    with (
        exclusive(),
        kept_random_state(accelerators),
        torch.inference_mode(False),
        torch.enable_grad(),
        torch.autocast(device.type, enabled=False),
        # Modes; what a forward pass notes on modules; and where one module has two names, ``functional_call`` puts the
        # first swap back in place of its tensors.
        kept_attributes(model),
        fresh_passes(model),
        _without_checkpoints(),
    ):
        if seed is not None:
            torch.manual_seed(seed)
        model.eval()
        yield


@contextmanager
def _without_checkpoints() -> Iterator[None]:
    """Within: what a model runs under ``torch.utils.checkpoint`` simply runs.

    A reentrant checkpoint refuses ``torch.autograd.grad``; any checkpoint runs its part anew in the backward pass,
    where the functions that a criterion puts in place of others are no longer there.
    """

    class Plain:
        @staticmethod
        def apply(function: Any, preserve: bool, *args: Any) -> Any:
            return function(*args)

    def plain(*args: Any, **kwargs: Any) -> Iterator[None]:
        yield

    generator = "_checkpoint_without_reentrant_generator"  # newer releases call the second of these
    generators = [(checkpoint, generator + end, plain) for end in ("", "_impl")]
    with patched([(checkpoint, "CheckpointFunction", Plain), *generators]):
        yield


def call_with(model: nn.Module, tensors: Mapping[str, Tensor], args: Any, kwargs: Any) -> Any:
    """``model(*args, **kwargs)`` in eval mode with stand-ins for its parameters and buffers, by name.

    A table that a module cached in an earlier run, of other weights or without gradients, takes no part.
    A ``DataParallel``, which ``functional_call`` does not take, is called as the network inside of it.
    """
    while isinstance(model, nn.DataParallel):
        model, tensors = model.module, {name.removeprefix("module."): tensor for name, tensor in tensors.items()}
    afresh_in_eval(model)
    return functional_call(model, dict(tensors), args, kwargs)
