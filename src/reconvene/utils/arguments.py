"""Arguments of the public functions, checked before any work: a wrong type is named together with what fits."""

from __future__ import annotations

import functools
import inspect
import os
import sys
import warnings
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from numbers import Integral, Real
from typing import Any, ParamSpec, TypeVar

import torch
from torch import nn

from reconvene.errors import ArgumentError, ModelError
from reconvene.utils.resources import explained_resources

_P = ParamSpec("_P")
_R = TypeVar("_R")
ArgumentCheck = Callable[[str, Any], Any]
"""From the name of an argument and its value to the value that the function gets; raises ReconveneError."""

LARGEST_SEED = 2**63 - 1


def checked(**checks: ArgumentCheck) -> Callable[[Callable[_P, _R]], Callable[_P, _R]]:
    """Decorate a public function: each argument named in ``checks`` passes its check before the function runs.

    The function also runs outside of ``torch.inference_mode``, where nothing can be recorded or differentiated, and
    errors of Python and PyTorch about memory and nested calls become ``ResourceError``.
    """

    def decorate(function: Callable[_P, _R]) -> Callable[_P, _R]:
        signature = inspect.signature(function)

        @functools.wraps(function)
        def call(*args: _P.args, **kwargs: _P.kwargs) -> _R:
            try:
                bound = signature.bind(*args, **kwargs)
            except TypeError:
                return function(*args, **kwargs)  # Python's own words name the function
            with explained_resources(), _outside_of_inference_mode():
                for name, check in checks.items():
                    if name in bound.arguments:
                        bound.arguments[name] = check(name, bound.arguments[name])
                return function(*bound.args, **bound.kwargs)

        return call

    return decorate


def _outside_of_inference_mode() -> AbstractContextManager[Any]:
    # Entering torch.inference_mode(False) would switch gradients on also under torch.no_grad.
    return torch.inference_mode(False) if torch.is_inference_mode_enabled() else nullcontext()


def warn_caller(message: str, category: type[Warning]) -> None:
    """Warn at the line outside of this package that called it, so that a user sees his own line, once for each."""
    package = os.path.dirname(os.path.dirname(__file__))
    level, frame = 2, sys._getframe(1)
    while frame.f_back is not None and os.path.realpath(frame.f_code.co_filename).startswith(package + os.sep):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, category, stacklevel=level)


def check_model(name: str, value: Any) -> nn.Module:
    """Check: an ``nn.Module``, and no class, name or state dict in its place."""
    if isinstance(value, nn.Module) and not isinstance(value, type):
        return value
    if isinstance(value, str):
        remedy = f"Build it first: reconvene.models.resolve_address({value!r}).build(), or name it to the command line"
    elif isinstance(value, type):
        remedy = f"Make an instance of it: {value.__name__}(...)"
    elif isinstance(value, Mapping):
        remedy = "A state dict holds tensors, not the layers that use them: build the model and load it there"
    else:
        remedy = "Give a torch.nn.Module"
    raise ModelError(f"{name}={_shown(value)} is not a model. {remedy}")


def check_seed(name: str, value: Any) -> int:
    """Check: a whole number from 0 to 2^63 - 1."""
    if isinstance(value, bool) or not isinstance(value, Integral) or not 0 <= int(value) <= LARGEST_SEED:
        raise ArgumentError(f"{name}={_shown(value)} is not a whole number from 0 to 2^63 - 1, such as {name}=0")
    return int(value)


def check_number(name: str, value: Any) -> float:
    """Check: a number, whole or not."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise ArgumentError(f"{name}={_shown(value)} is not a number")
    return float(value)


def check_integer(name: str, value: Any) -> int:
    """Check: a whole number."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise ArgumentError(f"{name}={_shown(value)} is not a whole number")
    return int(value)


def check_path(name: str, value: Any) -> Any:
    """Check: text or a path."""
    if not isinstance(value, str | os.PathLike):
        raise ArgumentError(f"{name}={_shown(value)} is not a path. Give text or a pathlib.Path")
    return value


def optional(check: ArgumentCheck) -> ArgumentCheck:
    """The same check, which also lets ``None`` through."""
    return lambda name, value: None if value is None else check(name, value)


def instance_of(kind: type[_R], remedy: str, error: type[Exception] = ArgumentError) -> ArgumentCheck:
    """Check: an instance of ``kind``; ``remedy`` says where one comes from."""

    def check(name: str, value: Any) -> _R:
        if not isinstance(value, kind):
            raise error(f"{name}={_shown(value)} is not a {kind.__name__}. {remedy}")
        return value

    return check


def _shown(value: Any) -> str:
    """Numbers and text as Python writes them, anything else by its type."""
    if isinstance(value, str | int | float | None):
        text = repr(value)
        return text if len(text) <= 60 else f"{text[:57]}..."
    return f"<{value.__name__}>" if isinstance(value, type) else f"<{type(value).__name__}>"
