"""Which modules are normalisations."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

_NORMS = (_NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)


def is_norm(module: nn.Module) -> bool:
    """A normalisation: one of PyTorch's classes, or anything that keeps a running mean and variance."""
    return isinstance(module, _NORMS) or keeps_statistics(module)


def keeps_statistics(module: nn.Module) -> bool:
    """Whether the module keeps a running mean and variance of what it was given."""
    return all(isinstance(getattr(module, name, None), Tensor) for name in ("running_mean", "running_var"))


def averages_statistics(module: nn.Module) -> bool:
    """Whether the module keeps such statistics and follows what it is given in train mode: batch and instance norms.

    Frozen batch norms (torchvision, timm) keep statistics that nothing updates.
    """
    return isinstance(module, _NormBase) and keeps_statistics(module)
