"""Modules nested deeply: work on them calls functions within functions, more of them than Python allows by default."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from inspect import signature
from typing import ParamSpec, TypeVar

import torch
from torch import nn

from reconvene.errors import ModelError
from reconvene.structure.patches import exclusive
from reconvene.structure.restore import accelerators, kept_random_state, seed_random_state

_P = ParamSpec("_P")
_R = TypeVar("_R")
DEEPEST = 2000
"""Levels of nested modules that fit on the stack of a thread; a forward pass takes two kilobytes a level."""
_FRAMES = 10
"""Calls of Python that a level takes at most: ``deepcopy`` makes six, a forward pass under hooks four."""


def on_model(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Decorate a step that works on a model: one thread at a time, with calls enough for modules nested deeply.

    The random state is afterwards as it was, whatever the step, its model and its data drew.
    """

    @wraps(function)
    def step(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        model = next((value for value in (*args, *kwargs.values()) if isinstance(value, nn.Module)), None)
        levels = 0 if model is None else _nesting(model)
        with exclusive(), _calls_for(levels), kept_random_state(accelerators(model)):
            return function(*args, **kwargs)

    return step


def seeded(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Decorate a step whose data may draw: its ``seed`` decides what, and the random state is afterwards as before."""

    @wraps(function)
    def step(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        try:
            bound = signature(function).bind(*args, **kwargs)
        except TypeError:
            return function(*args, **kwargs)  # which names the function in the error
        bound.apply_defaults()
        model = next((value for value in bound.arguments.values() if isinstance(value, nn.Module)), None)
        devices = accelerators(model)
        with kept_random_state(devices):
            seed_random_state(bound.arguments["seed"], devices[0] if devices else torch.device("cpu"))
            return function(*args, **kwargs)

    return step


@contextmanager
def _calls_for(levels: int) -> Iterator[None]:
    """Let Python call as deeply as work on modules of so many levels takes: by default it stops at 1,000 calls."""
    if levels > DEEPEST:
        raise ModelError(
            f"the model nests modules {levels:,} levels deep, and a thread's stack holds {DEEPEST:,} at most. "
            "Build it with less nesting: one nn.Sequential of many layers has one level"
        )
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(max(before, 1000 + _FRAMES * levels))
    try:
        yield
    finally:
        sys.setrecursionlimit(before)


def _nesting(model: nn.Module) -> int:
    """Levels of modules within modules, counted without recursion."""
    visited, waiting, deepest = {id(model)}, [(model, 1)], 1
    while waiting:
        module, level = waiting.pop()
        deepest = max(deepest, level)
        for child in module._modules.values():
            if child is not None and id(child) not in visited:
                visited.add(id(child))
                waiting.append((child, level + 1))
    return deepest
