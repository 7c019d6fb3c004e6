"""How a model is called with what the user gives as example inputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree


def call(model: Callable[..., Any], example_inputs: Any) -> Any:
    """Call ``model`` with copies of ``example_inputs``, which stay as they are: some models normalise in place.

    One tensor, a tuple or list of positional, or a mapping of keyword arguments.
    """
    args, kwargs = copied_arguments(example_inputs)
    return model(*args, **kwargs)


def call_on(model: nn.Module, example_inputs: Any) -> Any:
    """Call ``model`` with ``example_inputs`` themselves, which it may write to."""
    args, kwargs = arguments(example_inputs)
    return model(*args, **kwargs)


def writes_inputs(model: nn.Module, example_inputs: Any) -> bool:
    """Whether a pass over copies of these inputs changes them in place."""
    args, kwargs = copied_arguments(example_inputs)
    tensors = tensors_in((args, kwargs))
    before = [tensor._version for tensor in tensors]
    model(*args, **kwargs)
    return before != [tensor._version for tensor in tensors]


def arguments(example_inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Split example inputs into positional and keyword arguments."""
    if isinstance(example_inputs, Mapping):
        return (), dict(example_inputs)
    if isinstance(example_inputs, (tuple, list)):
        return tuple(example_inputs), {}
    return (example_inputs,), {}


def copied_arguments(example_inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """As ``arguments``, with a copy of every tensor; gradients go through to the tensors."""
    args, kwargs = copied(arguments(example_inputs))
    return args, kwargs


def copied(tree: Any) -> Any:
    """A nest of containers with a copy of every tensor, which a model may write to."""
    return map_tensors(torch.clone, tree)


def map_tensors(change: Callable[[Tensor], Tensor], tree: Any) -> Any:
    """Copy a nest of containers with every tensor changed."""
    return pytree.tree_map_only(Tensor, change, tree)


def with_usual_strides(tensor: Tensor) -> Tensor:
    """A copy with the usual strides.

    With one channel any strides pass for contiguous. XNNPACK takes them at their word, and PyTorch takes them for
    channels-last, in which some of its gradients write past their buffers (``training.memory_format``).
    """
    return tensor.clone(memory_format=torch.contiguous_format)


def tensors_in(tree: Any) -> list[Tensor]:
    """Every tensor in a nest of containers, dataclasses and objects with attributes (model outputs of any library)."""
    tensors: list[Tensor] = []
    _collect(tree, tensors, depth=0)
    return tensors


_PLAIN = frozenset(
    {int, float, bool, str, type(None), torch.dtype, torch.device, torch.layout, torch.memory_format, torch.Size}
)
_TENSORS = frozenset({Tensor, nn.Parameter})
_SEQUENCES = frozenset({tuple, list})
_CLOSED = (type, nn.Module, torch.dtype, int, float, str)
"""Kinds whose attributes are not looked into: a traced size remembers tensors, but is a number."""


def _collect(value: Any, tensors: list[Tensor], *, depth: int) -> None:
    value_type = type(value)
    if value_type in _TENSORS:
        tensors.append(value)
    elif value_type in _PLAIN:  # nearly everything in the arguments of a call that is no tensor
        return
    elif value_type in _SEQUENCES and depth <= 8:
        for item in value:
            item_type = type(item)
            if item_type in _TENSORS:
                tensors.append(item)
            elif item_type not in _PLAIN:
                _collect(item, tensors, depth=depth + 1)
    elif value_type is dict and depth <= 8:
        for item in value.values():
            _collect(item, tensors, depth=depth + 1)
    else:
        _collect_rare(value, tensors, depth=depth)


def _collect_rare(value: Any, tensors: list[Tensor], *, depth: int) -> None:
    """The same for subclasses of tensors and containers, and for objects that hold tensors in attributes."""
    if isinstance(value, Tensor):
        tensors.append(value)
    elif depth > 8 or isinstance(value, int):
        return
    elif isinstance(value, (tuple, list)):
        for item in value:
            _collect(item, tensors, depth=depth + 1)
    elif isinstance(value, Mapping):
        for item in value.values():
            _collect(item, tensors, depth=depth + 1)
    elif hasattr(value, "__dict__") and not isinstance(value, _CLOSED):
        for item in vars(value).values():
            _collect(item, tensors, depth=depth + 1)
