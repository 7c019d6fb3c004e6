"""The network of the anchors of mixed precision: MiniResNet 16-32-64, 73,370 parameters, for 3 x 32 x 32."""

from __future__ import annotations

from itertools import pairwise

from torch import nn

from reconvene.models.resnet import BasicBlock, ResNet


def mini_resnet(widths: tuple[int, int, int] = (16, 32, 64), in_channels: int = 3) -> nn.Module:
    """A stem and two blocks, each of which halves the image."""
    model = ResNet((1, 1, 1), widths, in_channels=in_channels)
    model.stages = nn.Sequential(*(nn.Sequential(BasicBlock(a, b, 2)) for a, b in pairwise(widths)))
    return model
