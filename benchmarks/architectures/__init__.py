"""The architectures the sweep is held against: torchvision, timm, transformers, and small nets of our own.

Each is built with random weights of a healthy scale, offline, in a fraction of a second per million parameters.
"""

from __future__ import annotations

from torch import nn

from architectures.entry import Architecture, Built
from architectures.own import own_architectures
from architectures.timm_zoo import other_timm_architectures, timm_architectures
from architectures.torchvision_zoo import torchvision_architectures
from architectures.transformers_zoo import transformers_architectures

__all__ = ["Architecture", "Built", "all_architectures", "dense", "other_architectures"]


def all_architectures() -> dict[str, Architecture]:
    """Every architecture of every sweep by name, such as ``timm/levit_128s``."""
    every = [
        *own_architectures(),
        *torchvision_architectures(),
        *transformers_architectures(),
        *timm_architectures(),
    ]
    return {architecture.name: architecture for architecture in every}


def other_architectures() -> dict[str, Architecture]:
    """The architectures of which a sweep takes a tenth, by name: the other networks of timm."""
    return {architecture.name: architecture for architecture in other_timm_architectures()}


def dense(name: str) -> nn.Module:
    """The dense network of this name: what artifacts of the sweep say that they are built by."""
    return (all_architectures() | other_architectures())[name].build()[0]
