"""Passes that begin afresh, over any network: its state is found before the first one where nobody analysed it."""

from __future__ import annotations

import weakref
from typing import Any

from torch import nn

from reconvene.structure.capture import settle_state
from reconvene.structure.inputs import call, tensors_in
from reconvene.structure.state import clear_state, is_known, own_instances, remember_state

_REFUSED: weakref.WeakKeyDictionary[nn.Module, set[tuple[Any, ...]]] = weakref.WeakKeyDictionary()
"""Shapes and types of inputs on which a network could not be recorded."""


def know_state(model: nn.Module, inputs: Any) -> None:
    """Find the state of a model that was not analysed: one recorded pass, 15 to 90 ms. The model stays as it is.

    Where that failed, inputs of the same shapes are not tried again; others are, since the inputs may have been wrong.
    """
    if is_known(model):
        return
    shapes = tuple((tuple(tensor.shape), tensor.dtype) for tensor in tensors_in(inputs))
    refused = _REFUSED.setdefault(model, set())
    if shapes not in refused:
        settle_state(model, inputs)
        if not is_known(model):
            refused.add(shapes)


def begin_afresh(model: nn.Module, inputs: Any) -> None:
    """Let the state of a model start afresh, in place, before a pass over ``inputs``.

    Every loop over batches calls this, or ``call_afresh``, before each pass: examples of one batch have nothing to say
    to those of the next.
    """
    know_state(model, inputs)
    clear_state(model)


def call_afresh(model: nn.Module, inputs: Any) -> Any:
    """The output of a pass that begins afresh and touches no other model's state."""
    begin_afresh(model, inputs)
    with own_instances(model):
        output = call(model, inputs)
    if not is_known(model):
        # It runs, but cannot be recorded. Batches of other shapes would try in vain, too.
        remember_state(model, ())
    return output
