"""MobileNetV2 (1801.04381), strides for 32x32 images: depthwise convolutions, linear bottlenecks, 2.2M parameters."""

from __future__ import annotations

from torch import Tensor, nn

from reconvene.models.layers import conv_bn, initialize, scaled

# expansion, channels, blocks, stride of the first block
_STAGES = ((1, 16, 1, 1), (6, 24, 2, 1), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))


class InvertedResidual(nn.Module):
    """Expand 1x1, depthwise 3x3, project 1x1 without an activation; a shortcut where the shape allows."""

    def __init__(self, in_channels: int, out_channels: int, expansion: int, stride: int) -> None:
        super().__init__()
        hidden = in_channels * expansion
        layers: list[nn.Module] = []
        if expansion != 1:
            layers += [*conv_bn(in_channels, hidden, 1), nn.ReLU6(inplace=True)]
        layers += [*conv_bn(hidden, hidden, stride=stride, groups=hidden), nn.ReLU6(inplace=True)]
        layers += conv_bn(hidden, out_channels, 1)
        self.body = nn.Sequential(*layers)
        self.residual = stride == 1 and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        """``[N, in, H, W] -> [N, out, H / stride, W / stride]``."""
        y: Tensor = self.body(x)
        return x + y if self.residual else y


class MobileNetV2(nn.Module):
    """``[N, in_channels, H, W] -> [N, num_classes]``; the image is halved three times."""

    def __init__(self, num_classes: int = 10, in_channels: int = 3, width: float = 1.0) -> None:
        super().__init__()
        channels, last = scaled(32, width), scaled(1280, max(width, 1.0))
        layers: list[nn.Module] = [nn.Sequential(*conv_bn(in_channels, channels), nn.ReLU6(inplace=True))]
        for expansion, base_width, count, first_stride in _STAGES:
            for position in range(count):
                out_channels = scaled(base_width, width)
                layers.append(InvertedResidual(channels, out_channels, expansion, first_stride if position == 0 else 1))
                channels = out_channels
        layers.append(nn.Sequential(*conv_bn(channels, last, 1), nn.ReLU6(inplace=True)))
        self.features = nn.Sequential(*layers)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(last, num_classes)
        initialize(self)

    def forward(self, x: Tensor) -> Tensor:
        """Class logits."""
        features: Tensor = self.pool(self.features(x))
        logits: Tensor = self.classifier(features.flatten(1))
        return logits


def mobilenetv2(num_classes: int = 10, in_channels: int = 3, width: float = 1.0) -> MobileNetV2:
    """MobileNetV2 for 32x32 images."""
    return MobileNetV2(num_classes, in_channels, width)
