"""The reference networks by name."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from reconvene.models.mobilenet import mobilenetv2
from reconvene.models.resnet import resnet18, resnet20, resnet32, resnet56
from reconvene.models.unet import unet
from reconvene.models.vgg import vgg16_bn

MODELS: dict[str, Callable[..., nn.Module]] = {
    "mobilenetv2": mobilenetv2,
    "resnet18": resnet18,
    "resnet20": resnet20,
    "resnet32": resnet32,
    "resnet56": resnet56,
    "unet": unet,
    "vgg16_bn": vgg16_bn,
}
"""Every one takes ``num_classes=10, in_channels=3, width=1.0`` and images of 32x32."""
