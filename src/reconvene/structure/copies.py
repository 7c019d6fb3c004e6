"""Deep copies of models, whatever their attributes hold."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from reconvene.structure.inputs import tensors_in
from reconvene.structure.state import enter_instances, known_state, remember_state

_LOCKS = {"_thread", "threading", "_multiprocess", "multiprocessing.synchronize"}
"""Modules whose objects guard something among threads or processes."""
_PLAIN = (bool, int, float, str, type(None), nn.Parameter)


def copy_model(model: nn.Module) -> nn.Module:
    """A deep copy, also of a model that holds results of a training step; its state is known where the model's is."""
    copy_of_model = copy.deepcopy(model, uncopied(model))
    remember_state(copy_of_model, known_state(model))
    enter_instances(model, copy_of_model)
    return copy_of_model


def uncopied(model: nn.Module) -> dict[int, object]:
    """What a deep copy cannot copy by itself, for its memo.

    Tensors that modules hold as results (membranes after a training step, old-style weight norm), in attributes,
    buffers and containers, are copied here, since deepcopy takes leaves only; locks are shared, since one that guards
    two networks does no harm.
    """
    values = [
        value
        for module in model.modules()
        for value in (*vars(module).values(), *module._buffers.values())
        if not isinstance(value, _PLAIN)
    ]
    results = {id(t): _unattached(t) for value in values for t in tensors_in(value) if not t.is_leaf}
    return {**results, **{id(value): value for value in values if type(value).__module__ in _LOCKS}}


def _unattached(tensor: Tensor) -> Tensor:
    with torch.no_grad():
        return tensor.detach().clone()
