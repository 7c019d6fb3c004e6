"""PyTorch's functions, replaced for a while, and the lock that keeps other threads away meanwhile."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel


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
