"""The reference networks by name."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

from torch import nn

from reconvene.models.ds_cnn import ds_cnn
from reconvene.models.hovernet import hovernet
from reconvene.models.mobilenet import mobilenetv2
from reconvene.models.resnet import resnet8, resnet18, resnet20, resnet32, resnet56
from reconvene.models.spiking import snn_resnet18, snn_vgg
from reconvene.models.unet import unet
from reconvene.models.vgg import vgg16_bn


def _noted(build: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
    """The same constructor, whose models know how they were built, so that they can be saved as artifacts."""

    @functools.wraps(build)
    def constructor(*args: Any, **kwargs: Any) -> nn.Module:
        from reconvene.models.address import ModelSource  # which itself looks names up here

        bound = inspect.signature(build).bind(*args, **kwargs)
        model = build(*args, **kwargs)
        source = ModelSource(build.__name__, bound.arguments, (int(bound.arguments.get("in_channels", 3)), 32, 32))
        object.__setattr__(model, "reconvene_source", source)  # a note, no part of the module
        return model

    return constructor


MODELS: dict[str, Callable[..., nn.Module]] = {
    build.__name__: _noted(build)
    for build in (
        ds_cnn,
        hovernet,
        mobilenetv2,
        resnet8,
        resnet18,
        resnet20,
        resnet32,
        resnet56,
        snn_resnet18,
        snn_vgg,
        unet,
        vgg16_bn,
    )
}
"""Every one takes ``num_classes=10, in_channels=3, width=1.0`` and images of 32x32."""
