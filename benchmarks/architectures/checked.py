"""Networks that look at values, as the code of many users does: a check of the inputs, and one in the middle."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from reconvene.structure import call, tensors_in


class ChecksInputs:
    """A forward pass that refuses inputs with a value that is no number."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Check, then compute."""
        for tensor in tensors_in((args, kwargs)):
            if tensor.isnan().any():
                raise ValueError("an input holds a value that is no number")
        return super().forward(*args, **kwargs)  # type: ignore[misc]


class ChecksOutput:
    """A forward pass that asserts that its output is finite."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Compute, then check."""
        output = super().forward(*args, **kwargs)  # type: ignore[misc]
        assert torch.isfinite(output).all()
        return output


def check_values(model: nn.Module, inputs: Any) -> str:
    """Put a check around the model and around the module in the middle of its calls, in place; the module's name.

    The classes are replaced by subclasses, so that names, attributes and parameters stay as they are.
    """
    middle = middle_module(model, inputs)
    names = {module: name for name, module in model.named_modules()}
    add(model, ChecksInputs)
    if middle is not None:
        add(middle, ChecksOutput)
    return names[middle] if middle is not None else ""


def middle_module(model: nn.Module, inputs: Any) -> nn.Module | None:
    """Of the modules that are called once and return one tensor of fractions, the one in the middle of the pass."""
    calls: list[tuple[nn.Module, Any]] = []
    parts = [module for module in model.modules() if module is not model]
    handles = [part.register_forward_hook(lambda part, _, output: calls.append((part, output))) for part in parts]
    try:
        with torch.no_grad():
            call(model, inputs)
    finally:
        for handle in handles:
            handle.remove()
    called = [part for part, _ in calls]
    once = [
        part
        for part, output in calls
        if isinstance(output, Tensor) and output.is_floating_point() and called.count(part) == 1
    ]
    return once[len(once) // 2] if once else None


def add(module: nn.Module, check: type) -> None:
    """Make the module one of a subclass that checks."""
    kind = type(module)
    module.__class__ = type(f"{check.__name__}{kind.__name__}", (check, kind), {"__module__": kind.__module__})
