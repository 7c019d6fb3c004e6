"""A U-Net (1505.04597) with batch norm: an encoder, a decoder, and skips that are concatenated. 1.9M parameters."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from reconvene.models.layers import conv_bn, initialize, scaled

_WIDTHS = (32, 64, 128, 256)


class UNet(nn.Module):
    """``[N, in_channels, H, W] -> [N, num_classes, H, W]`` logits for every pixel; H and W are multiples of 8."""

    def __init__(self, num_classes: int = 10, in_channels: int = 3, width: float = 1.0) -> None:
        super().__init__()
        widths = [scaled(channels, width) for channels in _WIDTHS]
        self.encoder = nn.ModuleList(
            _double(before, after) for before, after in zip([in_channels, *widths], widths, strict=False)
        )
        self.pool = nn.MaxPool2d(2)
        coarse_to_fine = list(zip(widths[:0:-1], widths[-2::-1], strict=True))
        self.up = nn.ModuleList(nn.ConvTranspose2d(coarse, fine, 2, 2) for coarse, fine in coarse_to_fine)
        self.decoder = nn.ModuleList(_double(2 * fine, fine) for _, fine in coarse_to_fine)
        self.head = nn.Conv2d(widths[0], num_classes, 1)
        initialize(self)

    def forward(self, x: Tensor) -> Tensor:
        """Pixel logits."""
        skips: list[Tensor] = []
        for depth, stage in enumerate(self.encoder):
            x = stage(self.pool(x) if depth else x)
            skips.append(x)
        skips.pop()
        for up, stage in zip(self.up, self.decoder, strict=True):
            x = stage(torch.cat([skips.pop(), up(x)], dim=1))
        logits: Tensor = self.head(x)
        return logits


def unet(num_classes: int = 10, in_channels: int = 3, width: float = 1.0) -> UNet:
    """A small U-Net."""
    return UNet(num_classes, in_channels, width)


def _double(in_channels: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(
        *conv_bn(in_channels, out_channels),
        nn.ReLU(inplace=True),
        *conv_bn(out_channels, out_channels),
        nn.ReLU(inplace=True),
    )
