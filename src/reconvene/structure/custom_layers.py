"""Layers that cannot be recorded: a rule by the user says what they couple.

A layer that leaves PyTorch (NumPy, a compiled extension, a fused kernel) makes no calls that a recording could see.
With a rule registered for its class it becomes one call, ``layer::ClassName``, whose arguments are its inputs and
then its parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from reconvene.structure.inputs import map_tensors, tensors_in
from reconvene.structure.patches import patched
from reconvene.utils.module_tree import modules_of

LAYERS: set[type[nn.Module]] = set()
"""Classes of layers that are recorded as one call each."""


@dataclass(frozen=True)
class LayerCall:
    """Stands where an ATen operator stands in a recorded call."""

    layer: type[nn.Module]
    tags: tuple[Any, ...] = ()
    namespace: str = "layer"

    @property
    def __name__(self) -> str:
        return f"layer::{self.layer.__name__}"

    @property
    def overloadpacket(self) -> LayerCall:
        """The operator without overload: the same."""
        return self

    def __str__(self) -> str:
        return self.__name__


@contextmanager
def opaque_layers(model: nn.Module, note: Callable[[LayerCall, list[Tensor], list[Tensor]], None]) -> Iterator[None]:
    """Run registered layers outside of the recording, on real zeros.

    ``note(call, arguments, outputs)`` records them.
    """
    layers = [module for module in modules_of(model) if type(module) in LAYERS]
    with patched([(layer, "forward", _stand_in(layer, note)) for layer in layers]):
        yield


def _stand_in(module: nn.Module, note: Callable[[LayerCall, list[Tensor], list[Tensor]], None]) -> Callable[..., Any]:
    original = module.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        arguments = [*tensors_in((args, kwargs)), *module.parameters()]
        with torch.utils._python_dispatch._disable_current_modes(), _real_tensors(module):
            real = original(*map_tensors(_zeros, args), **map_tensors(_zeros, kwargs))
            meta = arguments[0].is_meta
            out = map_tensors(lambda t: t.to("meta") if meta else t, real)
        note(LayerCall(type(module)), arguments, tensors_in(out))
        return out

    return forward


def _zeros(tensor: Tensor) -> Tensor:
    return torch.zeros_like(tensor, device="cpu") if tensor.is_meta else tensor


@contextmanager
def _real_tensors(layer: nn.Module) -> Iterator[None]:
    """Give a layer real zeros in place of meta parameters while it runs."""
    stores: list[dict[str, Any]] = [s for m in layer.modules() for s in (m._parameters, m._buffers)]
    tensors = [(store, name, tensor) for store in stores for name, tensor in store.items() if tensor is not None]
    try:
        for store, name, tensor in tensors:
            real = _zeros(tensor)
            store[name] = nn.Parameter(real, requires_grad=False) if isinstance(tensor, nn.Parameter) else real
        yield
    finally:
        for store, name, tensor in tensors:
            store[name] = tensor
