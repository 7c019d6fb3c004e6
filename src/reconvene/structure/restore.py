"""The state a recording changes for a while, each piece put back on the way out: attributes, tensors, hooks."""

from __future__ import annotations

import gc
import random
import threading
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules import module as module_hooks

from reconvene.utils.module_tree import modules_of, named_modules, set_attribute


@contextmanager
def paused_collector() -> Iterator[None]:
    """No garbage collection: thousands of small objects are made, none is garbage, and looking at them costs time."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


@contextmanager
def kept_random_state(devices: Sequence[int | torch.device] = ()) -> Iterator[None]:
    """Put back the random state of PyTorch, NumPy and Python: a forward pass may draw from any of them."""
    of_numpy, of_python = np.random.get_state(), random.getstate()
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        np.random.set_state(of_numpy)
        random.setstate(of_python)


def accelerators(model: nn.Module | None) -> list[torch.device]:
    """Accelerators whose random state a pass of the model may draw from, as ``kept_random_state`` takes them."""
    parameters = [] if model is None else list(model.parameters())
    return sorted({p.device for p in parameters if p.device.type == "cuda"}, key=str)


def seed_random_state(seed: int, device: torch.device) -> None:
    """Seed PyTorch on the CPU and on ``device``, NumPy and Python: a data set may draw from any of them.

    Other accelerators are left alone, since ``kept_random_state`` does not put their states back.
    """
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)


_CONTAINERS = frozenset({dict, OrderedDict, list, set})


@contextmanager
def kept_attributes(model: nn.Module) -> Iterator[None]:
    """Restore module attributes after a forward pass: a cached table would stay as a meta tensor, a hook twice.

    Modes, and which tensors are a module's parameters and buffers, are among its attributes.
    """
    before = [(module.__dict__, module.__dict__.copy()) for module in modules_of(model)]
    containers = [v for _, attributes in before for v in attributes.values() if type(v) in _CONTAINERS]
    empty = [container for container in containers if not container]
    filled = [(container, container.copy()) for container in containers if container]
    try:
        yield
    finally:
        for attributes, content in before:
            attributes.clear()
            attributes.update(content)
        for container in empty:
            if container:
                container.clear()
        for container, content in filled:
            container.clear()
            container.extend(content) if isinstance(container, list) else container.update(content)


@contextmanager
def twins(
    model: nn.Module,
    parameters: dict[str, Tensor],
    aliases: dict[str, tuple[str, ...]],
    device: str,
    replace: Mapping[str, Tensor],
    skip: Collection[str] = (),
) -> Iterator[None]:
    """Swap parameters and buffers for twins, but for the buffers named in ``skip``.

    ``parameters`` learns every twin by its first name, ``aliases`` all names of a tensor that has several.
    """
    undo: list[tuple[dict[str, Any], str, Any]] = []
    by_identity: dict[int, tuple[str, Tensor]] = {}
    try:
        for prefix, module in named_modules(model):
            stores: tuple[dict[str, Any], ...] = (module._parameters, module._buffers)
            for store in stores:
                for key, tensor in store.items():
                    if tensor is None:
                        continue
                    name = f"{prefix}.{key}" if prefix else key
                    if name in skip:
                        continue
                    first, twin = by_identity.get(id(tensor), (name, None))
                    if twin is None:
                        twin = _twin_of(tensor, device, replace.get(name))
                        by_identity[id(tensor)] = (name, twin)
                        parameters[name] = twin
                    else:
                        aliases[first] = (*aliases.get(first, (first,)), name)
                    undo.append((store, key, tensor))
                    store[key] = twin
            if isinstance(module, nn.RNNBase):
                undo.append((module.__dict__, "_flat_weights", module._flat_weights))
                module._flat_weights = [getattr(module, n, None) for n in module._flat_weights_names]
        yield
    finally:
        for store, key, value in reversed(undo):
            store[key] = value


def _twin_of(tensor: Tensor, device: str, replacement: Tensor | None) -> Tensor:
    if device == "real":
        if replacement is not None:
            return nn.Parameter(replacement, requires_grad=False) if isinstance(tensor, nn.Parameter) else replacement
        # Buffers are copied so that a forward pass may update them; parameters are only read.
        return tensor if isinstance(tensor, nn.Parameter) else tensor.clone()
    if not tensor.is_floating_point():  # indices and counters keep their values: code may read them
        return replacement if replacement is not None else tensor.detach().clone()
    if replacement is not None:
        twin = replacement if replacement.is_meta else torch.empty_like(replacement, device="meta", requires_grad=False)
    elif tensor.is_contiguous():  # empty_like is written in Python on meta, and costs ten times as much
        twin = torch.empty(tensor.shape, dtype=tensor.dtype, device="meta")
    else:
        twin = torch.empty_like(tensor, device="meta", requires_grad=False)
    if type(tensor) is Tensor or not isinstance(tensor, nn.Parameter):
        return twin
    return nn.Parameter(twin, requires_grad=tensor.requires_grad)


@contextmanager
def changed_attributes(model: nn.Module, attributes: Sequence[tuple[str, str, Any]]) -> Iterator[None]:
    """Give attributes other values: ``(module, attribute, value)``."""
    undo = []
    try:
        modules = dict(named_modules(model))
        for path, attribute, value in attributes:
            module = modules[path]
            undo.append((module, attribute, getattr(module, attribute)))
            set_attribute(module, attribute, value)
        yield
    finally:
        for module, attribute, value in reversed(undo):
            set_attribute(module, attribute, value)


Leave = Callable[[str, Any, Any], None]
"""Receives the path, the arguments and the output of a layer after its call."""


@contextmanager
def module_stack(model: nn.Module, leave: Leave | None = None) -> Iterator[list[str]]:
    """A stack of module paths, so that every call knows its layer; ``leave`` is called where a layer of them ends."""
    paths = {id(module): name for name, module in named_modules(model)}
    stack, owner = [""], threading.get_ident()

    def push(module: nn.Module, _: Any) -> None:
        if threading.get_ident() == owner:  # the hooks are called for every module in the process
            stack.append(paths.get(id(module), stack[-1]))

    def pop(module: nn.Module, args: Any, kwargs: Any, out: Any) -> None:
        if threading.get_ident() != owner:
            return
        stack.pop()
        if leave is not None and paths.get(id(module)):
            leave(paths[id(module)], (args, kwargs), out)

    first = module_hooks.register_module_forward_pre_hook(push)
    second = module_hooks.register_module_forward_hook(pop, with_kwargs=True)
    try:
        yield stack
    finally:
        first.remove()
        second.remove()
