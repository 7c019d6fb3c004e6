"""The state a recording changes for a while, each piece put back on the way out: attributes, tensors, hooks."""

from __future__ import annotations

import gc
import random
import sys
import threading
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
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


@contextmanager
def canonical_calls() -> Iterator[None]:
    """Attention as plain products, ``x[i] = number`` as a fill and ``one_hot`` as a comparison.

    So the calls of every device are the recorded ones.
    """
    fast_path = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with (
            sdpa_kernel(SDPBackend.MATH),
            patched([(Tensor, "__setitem__", _assign), (torch.nn.functional, "one_hot", _mark)]),
        ):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)


_set_item = Tensor.__setitem__
_one_hot = torch.nn.functional.one_hot


def _mark(tensor: Tensor, num_classes: int = -1) -> Tensor:
    """``one_hot``, which PyTorch scatters where tensors have values and compares where they have none."""
    if num_classes < 0:  # the largest value decides
        return _one_hot(tensor, num_classes)
    return (tensor.unsqueeze(-1) == torch.arange(num_classes, device=tensor.device)).to(torch.int64)


def _assign(tensor: Tensor, index: Any, value: Any) -> None:
    """``tensor[index] = value``; a number is filled into a view where the index gives one."""
    if isinstance(value, Tensor) or not isinstance(value, (bool, int, float, complex)):
        return _set_item(tensor, index, value)
    parts = index if isinstance(index, tuple) else (index,)
    if all(part is None or part is Ellipsis or isinstance(part, slice) or _is_position(part) for part in parts):
        tensor[index].fill_(value)
        return None
    return _set_item(tensor, index, torch.tensor(value, dtype=tensor.dtype))


@contextmanager
def values_on_meta() -> Iterator[None]:
    """Constants made on the device of another tensor keep their values, which meta has not: they follow widths."""
    tensor, as_tensor, new_tensor = torch.tensor, torch.as_tensor, Tensor.new_tensor

    def value_device(device: Any) -> Any:
        return "cpu" if device is not None and torch.device(device).type == "meta" else device

    def make(data: Any, *, device: Any = None, **options: Any) -> Tensor:
        return tensor(data, device=value_device(device), **options)

    def adopt(data: Any, dtype: Any = None, device: Any = None) -> Tensor:
        return as_tensor(data, dtype=dtype, device=device if isinstance(data, Tensor) else value_device(device))

    def make_like(source: Tensor, data: Any, *, dtype: Any = None, device: Any = None, **options: Any) -> Tensor:
        if isinstance(data, Tensor) or not (source.is_meta if device is None else value_device(device) != device):
            return new_tensor(source, data, dtype=dtype, device=device, **options)
        return tensor(data, dtype=dtype or source.dtype, **options)

    with patched([(torch, "tensor", make), (torch, "as_tensor", adopt), (Tensor, "new_tensor", make_like)]):
        yield


def _is_position(part: Any) -> bool:
    return isinstance(part, int) and not isinstance(part, bool)


_EXCLUSIVE = threading.RLock()


@contextmanager
def exclusive() -> Iterator[None]:
    """One thread at a time: what a step swaps in a model, or patches in PyTorch, another thread must not meet."""
    _load_compiler_beside_threads()
    with _EXCLUSIVE:
        yield


def _load_compiler_beside_threads() -> None:
    """Where other threads run, wait until PyTorch's compiler is loaded, which takes seconds.

    The first step of any optimizer loads it; a pass in this thread that calls it meanwhile would meet half of it.
    Threads that end with the process, such as those that draw progress, do not train.
    """
    if any(not thread.daemon for thread in threading.enumerate() if thread is not threading.current_thread()):
        import_module("torch._dynamo")


@contextmanager
def _without_compiler_tables() -> Iterator[None]:
    """Let the compiler forget what it looked up of PyTorch meanwhile: it keeps functions for the rest of the process.

    It looks them up once, by name, at the first use of ``torch.compile`` or ``torch.export``. Where that is while a
    function is replaced, it would not know the original one later, and refuse every network that calls it.
    """

    def is_built() -> bool:
        rules = sys.modules.get("torch._dynamo.trace_rules")
        return rules is not None and bool(rules.get_torch_obj_rule_map.cache_info().currsize)

    before = is_built()
    try:
        yield
    finally:
        if not before and is_built():
            sys.modules["torch._dynamo.trace_rules"].clear_lru_cache()


@contextmanager
def patched(changes: Sequence[tuple[Any, str, Any]]) -> Iterator[None]:
    """Replace functions, methods and properties for a while: ``(owner, name, new)``.

    Only this thread meets the new ones; a thread that trains at the same time keeps the old ones. Afterwards an owner
    that only inherited the attribute (a subclass, a layer whose class has it) does not have it either.
    """
    with exclusive(), _without_compiler_tables():
        originals = [(owner, name, owner.__dict__.get(name, _ABSENT)) for owner, name, _ in changes]
        try:
            for owner, name, new in changes:
                setattr(owner, name, _for_this_thread(getattr(owner, name), new))
            yield
        finally:
            for owner, name, old in originals:
                if old is not _ABSENT:
                    setattr(owner, name, old)
                elif name in owner.__dict__:
                    delattr(owner, name)


_ABSENT = object()


def _for_this_thread(old: Any, new: Any) -> Any:
    """``new`` for this thread, ``old`` for all others; a class is one for all."""
    owner = threading.get_ident()
    if isinstance(new, type):
        return new
    if isinstance(new, property):
        get = new.fget
        assert get is not None
        return property(lambda instance: get(instance) if threading.get_ident() == owner else old.__get__(instance))

    def call(*args: Any, **kwargs: Any) -> Any:
        return (new if threading.get_ident() == owner else old)(*args, **kwargs)

    return call


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
