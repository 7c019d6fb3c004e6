"""VGG-16 (1409.1556) with batch norm in its form for 32x32 images: one linear layer at the end, 14.7M parameters."""

from __future__ import annotations

from torch import Tensor, nn

from reconvene.models.layers import conv_bn, initialize, scaled

_STAGES = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))


class VGG(nn.Module):
    """Five stages, each halving the image: ``[N, in_channels, H, W] -> [N, num_classes]``; H and W are at least 32."""

    def __init__(self, num_classes: int = 10, in_channels: int = 3, width: float = 1.0) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = in_channels
        for stage in _STAGES:
            for base_width in stage:
                out_channels = scaled(base_width, width)
                layers += [*conv_bn(channels, out_channels), nn.ReLU(inplace=True)]
                channels = out_channels
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(channels, num_classes)
        initialize(self)

    def forward(self, x: Tensor) -> Tensor:
        """Class logits."""
        features: Tensor = self.pool(self.features(x))
        logits: Tensor = self.classifier(features.flatten(1))
        return logits


def vgg16_bn(num_classes: int = 10, in_channels: int = 3, width: float = 1.0) -> VGG:
    """VGG-16-BN for 32x32 images."""
    return VGG(num_classes, in_channels, width)
