"""The architectures the structure step is held against: torchvision, timm, transformers, and small nets of our own.

Each is built with random weights of a healthy scale, offline, in a fraction of a second per million parameters.
"""

from __future__ import annotations

from architectures.entry import Architecture, Built
from architectures.own import own_architectures
from architectures.timm_zoo import timm_architectures
from architectures.torchvision_zoo import torchvision_architectures
from architectures.transformers_zoo import transformers_architectures

__all__ = ["Architecture", "Built", "all_architectures"]


def all_architectures() -> dict[str, Architecture]:
    """Every architecture by name, such as ``timm/levit_128s``."""
    every = [
        *own_architectures(),
        *torchvision_architectures(),
        *transformers_architectures(),
        *timm_architectures(),
    ]
    return {architecture.name: architecture for architecture in every}
