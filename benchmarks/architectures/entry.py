"""What the sweep knows about one architecture, and how weights of a healthy scale come without slow initialization."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from reconvene.structure import call, tensors_in

Built = tuple[nn.Module, Any]
"""A model, and inputs for it as ``reconvene.structure.analyse`` takes them."""


@dataclass(frozen=True)
class Architecture:
    """One architecture of the zoo."""

    name: str
    """Source and name, such as ``timm/levit_128s``."""
    build: Callable[[], Built]
    loss: Callable[[nn.Module, Any], Tensor] | None = None
    """A scalar to differentiate in train mode, where calling the model with the inputs is not enough."""
    compare: Callable[[nn.Module, Any], Any] | None = None
    """What the proof compares, where the plain output is a discrete choice (boxes that survive suppression)."""
    nature: str = ""
    """Why this network cannot be lossless by nature; empty where it can, and must."""
    kept: str = ""
    """Why little of it can leave, where that is by nature and known."""

    @property
    def source(self) -> str:
        """Where it comes from: ``own``, ``torchvision``, ``timm`` or ``transformers``."""
        return self.name.partition("/")[0]


@contextmanager
def without_initialization() -> Iterator[None]:
    """Skip the initializers of ``torch.nn.init``, which take longer than everything else; weights are filled after."""
    names = [name for name in vars(nn.init) if name.endswith("_") and not name.startswith("_")]
    saved = {name: getattr(nn.init, name) for name in names}
    try:
        for name in names:
            setattr(nn.init, name, lambda tensor, *args, **kwargs: tensor)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for name, function in saved.items():
            setattr(nn.init, name, function)


def fill(model: nn.Module, *, seed: int = 0) -> nn.Module:
    """Random weights that keep the scale of activations; vectors (norms, gates, biases) are far from 0 and from 1."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.is_meta or not parameter.is_floating_point():
                continue
            if parameter.ndim > 1:
                fan_in = max(1, parameter[0].numel())
                parameter.normal_(std=fan_in**-0.5, generator=generator)
            else:
                parameter.uniform_(0.5, 1.5, generator=generator)
    return model


def image(*shape: int, seed: int = 0) -> Tensor:
    """Random pixels of this shape."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def summed(model: nn.Module, inputs: Any) -> Tensor:
    """The sum of every floating output: a loss through which each of them is differentiated."""
    tensors = [t for t in tensors_in(call(model, inputs)) if t.is_floating_point() and t.requires_grad]
    return torch.stack([t.sum() for t in tensors]).sum()


def squared(model: nn.Module, inputs: Any) -> Tensor:
    """The mean square of every floating output, added up: a loss that is bounded and sees each of them."""
    tensors = [t for t in tensors_in(call(model, inputs)) if t.is_floating_point() and t.requires_grad]
    return torch.stack([t.square().mean() for t in tensors]).sum()
