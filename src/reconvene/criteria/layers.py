"""Which layer of a model a run went wrong in, for messages."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.nn.modules import module as module_hooks

from reconvene.structure.inputs import tensors_in


def broken_layer(model: nn.Module, run: Callable[[], Any], is_broken: Callable[[Tensor], bool]) -> str:
    """`` (first in NAME)`` for the first innermost layer with a broken output, though no input was; else nothing."""
    names = {id(module): name for name, module in model.named_modules()}
    broken: list[str] = []

    def bad(tree: Any) -> bool:
        return any(is_broken(tensor.detach()) for tensor in tensors_in(tree) if tensor.is_floating_point())

    def look(module: nn.Module, inputs: Any, output: Any) -> None:
        if not broken and bad(output) and not bad(inputs):
            broken.append(f"{names.get(id(module)) or 'the model itself'} ({type(module).__name__})")

    hook = module_hooks.register_module_forward_hook(look)
    try:
        run()
    finally:
        hook.remove()
    return f", first in {broken[0]}" if broken else ""


def refusing_layer(error: BaseException, model: nn.Module) -> str:
    """`` in NAME`` for the innermost module of the model that raised the error; nothing where it was the model."""
    names = {id(module): name for name, module in model.named_modules()}
    inside, trace = "", error.__traceback__
    while trace is not None:
        owner = trace.tb_frame.f_locals.get("self")
        if isinstance(owner, nn.Module) and names.get(id(owner)):
            inside = f" in {names[id(owner)]} ({type(owner).__name__})"
        trace = trace.tb_next
    return inside
