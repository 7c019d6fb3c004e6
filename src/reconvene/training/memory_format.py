"""Which memory format a network is trained in."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from reconvene.structure.copies import copy_model
from reconvene.structure.fresh import call_afresh

FEWEST = 16
"""Input channels below which the gradient of a strided 1x1 convolution is unsafe: a vector of the widest processor."""


def put_in_channels_last(model: nn.Module, images: Tensor, *, device: torch.device, precision: str) -> bool:
    """Give convolutions channels-last weights where ``model`` works with them; returns whether it does.

    It does not where PyTorch computes a gradient wrongly (``safe_in_channels_last``), and where ``forward`` takes views
    of activations that exist for contiguous tensors only, such as ``x.view(x.size(0), -1)`` behind a convolution. Then
    the weights stay contiguous. ``images``: a few, normalised; the model is tried on them.
    """
    if not safe_in_channels_last(model, device=device, precision=precision):
        return False
    # On a copy: weights of one input channel are contiguous in both formats, and keep the strides of channels-last.
    trial = copy_model(model).eval().to(memory_format=torch.channels_last)
    try:
        with torch.no_grad():
            call_afresh(trial, images.contiguous(memory_format=torch.channels_last))
    except RuntimeError:
        return False
    model.to(memory_format=torch.channels_last)
    return True


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
