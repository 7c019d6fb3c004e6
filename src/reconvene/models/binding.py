"""A constructor together with its arguments, checked before anything is built."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from reconvene.errors import ModelError, ReconveneError
from reconvene.models.user_code import describe_error
from reconvene.utils.resources import resource_error

ModelArgument = int | float | bool | str
Build = Callable[[], nn.Module]


def whole_number(args: Mapping[str, ModelArgument], name: str, default: int, address: str) -> int:
    """An argument that counts something. Raises ModelError."""
    value = args.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int):
        raise ModelError(f"{address}: {name}={value!r} is not a whole number, such as {default}")
    return value


def bind(constructor: Callable[..., Any], args: Mapping[str, ModelArgument], address: str, **fixed: Any) -> Build:
    """``constructor(**args, **fixed)`` to be called later; a ModelError now if its signature does not take them."""
    try:
        signature = inspect.signature(constructor)
    except (TypeError, ValueError):  # a constructor written in C has none: it checks for itself when it is called
        return lambda: built(address, lambda: constructor(**args, **fixed))
    try:
        signature.bind(**args, **fixed)
    except TypeError as error:
        takes = ", ".join(str(parameter) for parameter in signature.parameters.values())
        raise ModelError(f"{address} cannot be built: {error}. It takes ({takes})") from error
    return lambda: built(address, lambda: constructor(**args, **fixed))


def built(address: str, build: Callable[[], Any]) -> Any:
    """What ``build`` returns; what a constructor complains of becomes a ModelError that says which model it was."""
    try:
        return build()
    except Exception as error:  # a constructor is foreign code, which may raise anything
        if isinstance(error, ReconveneError):
            raise
        if (explanation := resource_error(error)) is not None:
            raise explanation from error
        raise ModelError(f"{address} cannot be built: {describe_error(error)}") from error
