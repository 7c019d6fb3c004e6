"""Products of inputs and weights that are not zero, counted where a layer makes them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

_FUNCTIONS = frozenset(
    {"linear", *(f"conv{dims}d" for dims in (1, 2, 3)), *(f"conv_transpose{dims}d" for dims in (1, 2, 3))}
)


class ProductsMet(TorchFunctionMode):
    """Within: every convolution and linear function is counted, and computes what it always does."""

    def __init__(self) -> None:
        super().__init__()
        self.calls, self.total = 0, 0.0

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = MappingProxyType({}),
    ) -> Any:
        """See ``TorchFunctionMode``."""
        given = dict(kwargs or {})
        if getattr(func, "__name__", "") in _FUNCTIONS:
            self.calls += 1
            self.total += _met(func, args, given)
        return func(*args, **given)


def _met(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> float:
    """The result of a function with ones for input and weight where they are not zero, summed up."""
    first = dict(zip(("input", "weight", "bias"), args[:3], strict=False))
    named = first | kwargs
    ones = [(named.pop(name) != 0).to(torch.float32) for name in ("input", "weight")]
    named.pop("bias", None)
    return float(func(*ones, None, *args[3:], **named).double().sum())
