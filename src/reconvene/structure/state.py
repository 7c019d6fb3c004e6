"""State: what a forward pass leaves in a model for the next one (membranes, caches), and how it starts afresh.

``written_state`` reads a recorded pass, ``find_state`` tries how each piece starts, and what was found is remembered
by model: from then on our passes over it begin afresh, whatever it was run on before.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from reconvene.structure.inputs import tensors_in
from reconvene.utils.module_tree import modules_of, named_modules
from reconvene.utils.norms import keeps_statistics
from reconvene.utils.schema import Name, closed

_INTERNAL = frozenset(vars(nn.Module()))
"""Attributes that every module has."""
_PLAIN = (bool, int, float, str, type(None), torch.dtype, torch.device, torch.Size, type, nn.Module)
_USUAL = frozenset(_PLAIN)


@closed
@dataclass(frozen=True, order=True)
class StateItem:
    """One piece of state: an attribute or a buffer of a module, and the way it starts afresh.

    ``way`` is a name in ``RESETS``, ``NUMBER`` (all of it becomes ``number`` again), or empty where there is no way.
    """

    module: Name
    name: Name
    way: Name = ""
    number: float | None = None

    def __post_init__(self) -> None:
        if self.name in _INTERNAL or self.way not in ("", NUMBER, *RESETS):
            raise ValueError(f"{self.module}.{self.name} cannot start afresh by {self.way!r}")
        if (self.way == NUMBER) != (self.number is not None):
            raise ValueError(f"{self.module}.{self.name} starts afresh by {self.way!r} with the number {self.number}")

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; without a number as in plans of older releases."""
        return {key: value for key, value in asdict(self).items() if value is not None}

    def start_afresh(self, model: nn.Module) -> None:
        """Give the attribute or the buffer its first value, in place."""
        module = model.get_submodule(self.module)
        if self.way == NUMBER:
            _replace(module, self.name, lambda tensor: self.number)
        elif self.way:
            RESETS[self.way](module, self.name)


def _call_reset(module: nn.Module, name: str) -> None:
    if name in module._buffers or not callable(getattr(type(module), "reset", None)):
        raise AttributeError("no method reset() that could give the attribute its first value")
    module.reset()  # type: ignore[operator]


def _delete(module: nn.Module, name: str) -> None:
    if name in module._buffers:
        raise AttributeError("a buffer that is not there cannot be read")
    module.__dict__.pop(name, None)


def _to_none(module: nn.Module, name: str) -> None:
    _replace(module, name, lambda tensor: None)


def _to_empty(module: nn.Module, name: str) -> None:
    _replace(module, name, lambda tensor: torch.zeros(0, dtype=tensor.dtype, device=tensor.device))


def _to_one_zero(module: nn.Module, name: str) -> None:
    _replace(module, name, lambda tensor: torch.zeros(1, dtype=tensor.dtype, device=tensor.device))


def _to_zeros(module: nn.Module, name: str) -> None:
    _replace(module, name, lambda tensor: torch.zeros_like(tensor.detach()))


def _replace(module: nn.Module, name: str, change: Callable[[Tensor], Tensor | float | None]) -> None:
    store = module._buffers if name in module._buffers else module.__dict__
    if isinstance(store.get(name), (Tensor, list, tuple, dict)):  # anything else is no tensor yet
        store[name] = _changed(store[name], change)


def _changed(value: Any, change: Callable[[Tensor], Tensor | float | None]) -> Any:
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, (list, tuple)):
        return type(value)(_changed(item, change) for item in value)
    return {key: _changed(item, change) for key, item in value.items()} if isinstance(value, dict) else value


def _to_empty_container(module: nn.Module, name: str) -> None:
    value = module.__dict__.get(name)
    if not isinstance(value, (list, dict)):
        raise AttributeError("no container")
    module.__dict__[name] = type(value)()


NUMBER = "number"
"""State that begins as a number, alone or in containers, which only a model that was not run yet still holds."""
REPLACEMENTS: dict[str, Callable[[nn.Module, str], None]] = {
    "none": _to_none,
    "empty": _to_empty,
    "zero": _to_one_zero,
    "zeros": _to_zeros,
}
"""What takes the place of tensors; where state holds none, these do nothing."""
RESETS: dict[str, Callable[[nn.Module, str], None]] = {
    "reset": _call_reset,
    "absent": _delete,
    "no items": _to_empty_container,
    **REPLACEMENTS,
}
"""How a piece of state starts afresh, in the order in which ``find_state`` tries them.

The module's own ``reset()`` comes first. Then what lets the module's own code build the state anew (``absent`` to
``empty``: no values), and last zeros: one that broadcasts, and a tensor of the shape that is there.
"""

_KNOWN: weakref.WeakKeyDictionary[nn.Module, tuple[StateItem, ...]] = weakref.WeakKeyDictionary()


def held_numbers(model: nn.Module, state: StateItem) -> set[float]:
    """The numbers that a piece of state holds, alone or in a container; none where it holds anything else."""
    leaves = pytree.tree_leaves(getattr(model.get_submodule(state.module), state.name, None))
    return set(leaves) if all(type(leaf) in (int, float) for leaf in leaves) else set()


def known_state(model: nn.Module) -> tuple[StateItem, ...]:
    """The state of a model that was analysed, or that a plan made; else none."""
    return _KNOWN.get(model, ())


def is_known(model: nn.Module) -> bool:
    """Whether it is known what state a model has; it may be none."""
    return model in _KNOWN


def remember_state(model: nn.Module, states: Iterable[StateItem]) -> None:
    """Note the state of a model."""
    _KNOWN[model] = tuple(sorted(states))


def clear_state(model: nn.Module, states: Iterable[StateItem] | None = None) -> None:
    """Let the state of a model (by default the known state) start afresh, in place."""
    for state in known_state(model) if states is None else states:
        state.start_afresh(model)


def state_buffers(model: nn.Module, states: Iterable[StateItem] | None = None) -> frozenset[str]:
    """Names of the buffers among the state (by default the known state) whose shape the forward pass decides."""
    return frozenset(
        f"{state.module}.{state.name}".lstrip(".")
        for state in (known_state(model) if states is None else states)
        if state.way != "zeros" and state.name in model.get_submodule(state.module)._buffers
    )


@contextmanager
def fresh_passes(model: nn.Module) -> Iterator[None]:
    """Within: every forward pass of the model begins afresh and touches no other model; values come back afterwards.

    The statistics of norms are theirs to change. What is put into attributes, ``kept_attributes`` takes out again.
    """
    hook = model.register_forward_pre_hook(lambda module, args: clear_state(module)) if known_state(model) else None
    try:
        with kept_values(model, buffers=True), own_instances(model):
            yield
    finally:
        if hook is not None:
            hook.remove()


@contextmanager
def kept_values(model: nn.Module, *, buffers: bool) -> Iterator[None]:
    """Afterwards tensors in attributes have their values again, and ``buffers`` but for the statistics of norms."""
    tensors = [tensor for _, _, value in _holders(model, buffers=buffers) for tensor in tensors_in(value)]
    before = [(t, t._version, t.detach().clone()) for t in tensors if not t.is_inference() and not t.is_meta]
    try:
        yield
    finally:
        for tensor, version, value in before:
            if tensor._version != version:
                with torch.no_grad():
                    tensor.detach().copy_(value)


def _holders(model: nn.Module, *, buffers: bool) -> Iterator[tuple[str, str, Any]]:
    """Attributes and buffers that may hold tensors: module, name, value."""
    for path, module in named_modules(model):
        stores = [module.__dict__, module._buffers] if buffers and module._buffers else [module.__dict__]
        for store in stores if len(stores) == 1 or not keeps_statistics(module) else stores[:1]:
            for name, value in store.items():
                if type(value) not in _USUAL and name not in _INTERNAL and not isinstance(value, _PLAIN):
                    yield path, name, value


Snapshot = dict[tuple[str, str], tuple[int, ...]]
"""The tensors that every attribute and buffer holds, by module and name."""


def snapshot(model: nn.Module) -> Snapshot:
    """What attributes and buffers hold now; those that hold no tensor are left out."""
    return {
        (path, name): tuple(map(id, tensors))
        for path, name, value in _holders(model, buffers=True)
        if (tensors := tensors_in(value))
    }


def possible_state(model: nn.Module) -> list[StateItem]:
    """Whatever could be state: tensors in attributes, and buffers that are not saved."""
    return [
        StateItem(path, name)
        for path, name in snapshot(model)
        if name not in (module := model.get_submodule(path))._buffers or name in module._non_persistent_buffers_set
    ]


@contextmanager
def own_instances(model: nn.Module) -> Iterator[None]:
    """Within: a list on a class in which modules enter themselves (snnTorch) holds the modules of this model alone.

    So a forward pass that works on the whole list changes no other model, and changes this one where it is a copy.
    """
    before = [(entries, list(entries)) for entries in _instance_lists(model)]
    try:
        for entries, content in before:
            classes = tuple({type(entry) for entry in content})
            entries[:] = [module for module in modules_of(model) if isinstance(module, classes)]
        yield
    finally:
        for entries, content in before:
            entries[:] = content


def enter_instances(model: nn.Module, copy_of_model: nn.Module) -> None:
    """Enter the modules of a copy in the lists of instances that have the model's, for as long as the copy lives."""
    for entries in _instance_lists(model):
        classes = tuple({type(entry) for entry in entries})
        modules = [module for module in modules_of(copy_of_model) if isinstance(module, classes)]
        if copy_of_model not in modules:
            entries += modules
            weakref.finalize(copy_of_model, _remove, entries, modules)


def _remove(entries: list[nn.Module], modules: list[nn.Module]) -> None:
    gone = {id(module) for module in modules}
    entries[:] = [entry for entry in entries if id(entry) not in gone]


def _instance_lists(model: nn.Module) -> list[list[nn.Module]]:
    kinds = {type(module) for module in modules_of(model)}
    classes = {base for kind in kinds for base in kind.__mro__}
    values = [value for base in classes if base.__module__.split(".")[0] not in _PLAIN_BASES for value in _values(base)]
    unique = {id(value): value for value in values}
    return [value for value in unique.values() if value and all(isinstance(entry, nn.Module) for entry in value)]


_PLAIN_BASES = frozenset({"torch", "builtins", "abc", "typing"})


def _values(base: type) -> list[list[nn.Module]]:
    return [value for value in vars(base).values() if type(value) is list]
