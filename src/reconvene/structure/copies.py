"""Deep copies of models, whatever their attributes hold."""

from __future__ import annotations

import copy
import copyreg
from collections import OrderedDict
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from reconvene.structure.inputs import tensors_in
from reconvene.structure.state import enter_instances, is_known, known_state, remember_state
from reconvene.utils.module_tree import modules_of

_LOCKS = {"_thread", "threading", "_multiprocess", "multiprocessing.synchronize"}
"""Modules whose objects guard something among threads or processes."""
_ATOMS = frozenset({bool, int, float, str, type(None)})
"""Kinds of values that are their own copies."""
_TABLES = frozenset({dict, OrderedDict})
_CONTENT = (dict, list, tuple, set, frozenset, str, bytes, int, float)


def copy_model(model: nn.Module) -> nn.Module:
    """A deep copy, also of a model that holds results of a training step; its state is known where the model's is."""
    copy_of_model = deep_copy(model, uncopied(model))
    if is_known(model):
        remember_state(copy_of_model, known_state(model))
    enter_instances(model, copy_of_model)
    return copy_of_model


def deep_copy(model: nn.Module, memo: dict[int, Any]) -> nn.Module:
    """``copy.deepcopy(model, memo)``, module by module.

    ``deepcopy`` looks at every attribute of every module as if it could be anything. Nearly all are numbers, texts and
    empty tables of hooks, and nearly all modules are copied by their ``__dict__``.
    """
    modules = modules_of(model)
    plain = {kind for kind in set(map(type, modules)) if _is_copied_by_attributes(kind)}
    shells: list[tuple[nn.Module, Any]] = []
    for module in modules:
        kind = type(module)
        if kind in plain and id(module) not in memo and "__deepcopy__" not in module.__dict__:
            shells.append((module, kind.__new__(kind)))
            memo[id(module)] = shells[-1][1]
    for module, shell in reversed(shells):  # a module is whole before the one that holds it
        shell.__setstate__({name: _copied(value, memo) for name, value in module.__dict__.items()})
    copied: nn.Module = copy.deepcopy(model, memo)
    return copied


def _copied(value: Any, memo: dict[int, Any]) -> Any:
    kind = type(value)
    if kind in _ATOMS or (kind is tuple and all(type(item) in _ATOMS for item in value)):
        return value
    if kind in _TABLES and not value:
        return memo.setdefault(id(value), kind())
    return copy.deepcopy(value, memo)


def _is_copied_by_attributes(kind: type) -> bool:
    """Whether a deep copy of a module of this class is a new object with copies of all attributes."""
    usual = ("__reduce_ex__", "__reduce__", "__getstate__", "__new__")
    return (
        all(getattr(kind, name, None) is getattr(object, name, None) for name in usual)
        and not any(hasattr(kind, name) for name in ("__deepcopy__", "__getnewargs__", "__getnewargs_ex__"))
        and kind.__setstate__.__module__.startswith("torch.nn.")  # type: ignore[attr-defined]
        and kind not in copyreg.dispatch_table
        and not issubclass(kind, _CONTENT)
        and not any("__slots__" in vars(base) for base in kind.__mro__)
    )


def uncopied(model: nn.Module) -> dict[int, Any]:
    """What a deep copy cannot copy by itself, for its memo.

    Tensors that modules hold as results (membranes after a training step, old-style weight norm), in attributes,
    buffers and containers, are copied here, since deepcopy takes leaves only; locks are shared, since one that guards
    two networks does no harm.
    """
    memo: dict[int, Any] = {}
    for module in modules_of(model):
        for value in chain(module.__dict__.values(), module._buffers.values()):
            kind = type(value)
            if kind in _ATOMS or kind is nn.Parameter or (kind in _TABLES and not value):
                continue
            memo.update({id(t): _unattached(t) for t in tensors_in(value) if not t.is_leaf and id(t) not in memo})
            if kind.__module__ in _LOCKS:
                memo[id(value)] = value
    return memo


def _unattached(tensor: Tensor) -> Tensor:
    with torch.no_grad():
        return tensor.detach().clone()
