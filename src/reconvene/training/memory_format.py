"""Which memory format a network is trained in."""

from __future__ import annotations

import torch
from torch import nn

FEWEST = 16
"""Input channels below which the gradient of a strided 1x1 convolution is unsafe: a vector of the widest processor."""


def safe_in_channels_last(model: nn.Module, *, device: torch.device, precision: str) -> bool:
    """Whether PyTorch computes every gradient of ``model`` with channels-last weights within its buffers.

    On CPU, in float32, the gradient of a strided 1x1 convolution of few input channels writes past the end of one
    (PyTorch 2.14 and 2.15: 3 and 4 channels with AVX2, up to 15 with AVX-512), which ends the process sooner or later.
    """
    if device.type != "cpu" or precision != "fp32":
        return True
    return not any(_overruns(module) for module in model.modules() if isinstance(module, nn.Conv2d))


def _overruns(layer: nn.Conv2d) -> bool:
    return max(layer.kernel_size) == 1 and max(layer.stride) > 1 and layer.in_channels < FEWEST
