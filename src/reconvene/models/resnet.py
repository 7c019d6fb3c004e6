"""Residual networks (1512.03385) for 32x32 images: ResNet-20 / 32 / 56 of the CIFAR family, ResNet-18 with a 3x3 stem.

Shortcuts that change shape are 1x1 convolutions (option B of the paper), so every coupling is visible in a parameter.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from reconvene.models.layers import conv_bn, initialize, scaled


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *conv_bn(in_channels, out_channels, stride=stride),
            nn.ReLU(inplace=True),
            *conv_bn(out_channels, out_channels),
        )
        same = stride == 1 and in_channels == out_channels
        self.shortcut = nn.Identity() if same else nn.Sequential(*conv_bn(in_channels, out_channels, 1, stride=stride))
        self.activation = nn.ReLU()  # a module, which ``replace`` can put another one in the place of

    def forward(self, x: Tensor) -> Tensor:
        """``[N, in, H, W] -> [N, out, H / stride, W / stride]``."""
        summed: Tensor = self.activation(self.body(x) + self.shortcut(x))
        return summed


class ResNet(nn.Module):
    """A 3x3 stem, stages of basic blocks (each but the first halves the image), mean over space, one linear layer."""

    def __init__(
        self,
        blocks: Sequence[int],
        widths: Sequence[int],
        num_classes: int = 10,
        in_channels: int = 3,
        width: float = 1.0,
    ) -> None:
        super().__init__()
        channels = scaled(widths[0], width)
        self.stem = nn.Sequential(*conv_bn(in_channels, channels), nn.ReLU(inplace=True))
        stages: list[nn.Module] = []
        for stage, (count, base_width) in enumerate(zip(blocks, widths, strict=True)):
            layers: list[nn.Module] = []
            for position in range(count):
                stride = 2 if stage > 0 and position == 0 else 1
                layers.append(BasicBlock(channels, scaled(base_width, width), stride))
                channels = scaled(base_width, width)
            stages.append(nn.Sequential(*layers))
        self.stages = nn.Sequential(*stages)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(channels, num_classes)
        initialize(self)

    def forward(self, x: Tensor) -> Tensor:
        """Class logits: ``[N, in_channels, H, W] -> [N, num_classes]``."""
        features: Tensor = self.pool(self.stages(self.stem(x)))
        logits: Tensor = self.classifier(features.flatten(1))
        return logits


def resnet8(num_classes: int = 10, in_channels: int = 3, width: float = 1.0) -> ResNet:
    """ResNet-8, 78k parameters: one block a stage, as in MLPerf Tiny."""
    return ResNet((1, 1, 1), (16, 32, 64), num_classes, in_channels, width)


def resnet20(num_classes: int = 10, in_channels: int = 3, width: float = 1.0) -> ResNet:
    """ResNet-20, 0.27M parameters."""
    return ResNet((3, 3, 3), (16, 32, 64), num_classes, in_channels, width)


def resnet32(num_classes: int = 10, in_channels: int = 3, width: float = 1.0) -> ResNet:
    """ResNet-32, 0.47M parameters."""
    return ResNet((5, 5, 5), (16, 32, 64), num_classes, in_channels, width)


def resnet56(num_classes: int = 10, in_channels: int = 3, width: float = 1.0) -> ResNet:
    """ResNet-56, 0.86M parameters."""
    return ResNet((9, 9, 9), (16, 32, 64), num_classes, in_channels, width)


def resnet18(num_classes: int = 10, in_channels: int = 3, width: float = 1.0) -> ResNet:
    """ResNet-18 with a 3x3 stem and no pooling after it, 11.2M parameters."""
    return ResNet((2, 2, 2, 2), (64, 128, 256, 512), num_classes, in_channels, width)
