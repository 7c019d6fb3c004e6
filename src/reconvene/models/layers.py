"""What the reference networks share: one convolution block, one initialization, one way to scale widths."""

from __future__ import annotations

from torch import nn


def conv_bn(
    in_channels: int, out_channels: int, kernel: int = 3, *, stride: int = 1, groups: int = 1
) -> list[nn.Module]:
    """A same-padded convolution without bias and its batch norm, as the two modules of a ``nn.Sequential``."""
    conv = nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, groups=groups, bias=False)
    return [conv, nn.BatchNorm2d(out_channels)]


def scaled(channels: int, width: float) -> int:
    """``channels`` times the width multiplier, to the nearest whole channel, at least one."""
    return max(1, round(channels * width))


def initialize(model: nn.Module) -> None:
    """He initialization (1502.01852), standard deviation 0.01 for linear layers, biases zero."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, 0.0, 0.01)
        else:
            continue
        if module.bias is not None:
            nn.init.zeros_(module.bias)
