"""DS-CNN (Zhang et al. 2017, 1711.07128), the keyword spotter of microcontroller benchmarks, for log-mel pictures."""

from __future__ import annotations

from torch import Tensor, nn

from reconvene.models.layers import conv_bn, initialize, scaled

_CHANNELS, _BLOCKS = 64, 4
_BANDS, _FRAMES = 4, 10  # of the kernel of the first layer


class DSCNN(nn.Module):
    """``[N, in_channels, bands, frames] -> [N, num_classes]``: a wide kernel along time, then separable convolutions.

    Sizes of the small network of the paper, 64 channels and four blocks, without its dropout. The first layer halves
    the picture.
    """

    def __init__(self, num_classes: int = 10, in_channels: int = 3, width: float = 1.0) -> None:
        super().__init__()
        channels = scaled(_CHANNELS, width)
        first = nn.Conv2d(in_channels, channels, (_BANDS, _FRAMES), 2, (_BANDS // 2 - 1, _FRAMES // 2 - 1), bias=False)
        self.stem = nn.Sequential(first, nn.BatchNorm2d(channels), nn.ReLU(inplace=True))
        self.blocks = nn.Sequential(*(separable(channels) for _ in range(_BLOCKS)))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(channels, num_classes)
        initialize(self)

    def forward(self, x: Tensor) -> Tensor:
        """Class logits."""
        features: Tensor = self.pool(self.blocks(self.stem(x)))
        logits: Tensor = self.classifier(features.flatten(1))
        return logits


def separable(channels: int) -> nn.Sequential:
    """A depthwise 3x3 and a pointwise convolution, each with batch norm and ReLU."""
    depthwise, pointwise = conv_bn(channels, channels, groups=channels), conv_bn(channels, channels, 1)
    return nn.Sequential(*depthwise, nn.ReLU(inplace=True), *pointwise, nn.ReLU(inplace=True))


def ds_cnn(num_classes: int = 10, in_channels: int = 3, width: float = 1.0) -> DSCNN:
    """DS-CNN; pictures of sound have ``in_channels=1``, and then it has 23,050 parameters."""
    return DSCNN(num_classes, in_channels, width)
