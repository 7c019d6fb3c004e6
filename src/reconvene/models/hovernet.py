"""HoVer-Net (1812.06499) in its fast form: objects told apart by horizontal and vertical maps. 37.6M parameters.

A pre-activation ResNet-50 encodes, and two or three decoders of densely connected units each add its skips.
Convolutions are padded, so outputs are as large as the input; the published network crops instead (256 to 164 pixels).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from reconvene.models.layers import initialize, scaled

FOREGROUND, DIRECTIONS = 2, 2
GROUPS = 4
_STAGES = ((64, 256, 3, 1), (128, 512, 4, 2), (256, 1024, 6, 2), (512, 2048, 3, 2))
"""Inner width, outer width, units and stride of the encoder's stages."""
_BOTTLENECK = 1024
_DECODER = ((256, 8, 512), (128, 4, 256))
"""First width, dense units and last width of the decoder's stages, the deepest first."""
_UNIT = (128, 32)
"""Inner width and growth of a dense unit."""


class HoVerNet(nn.Module):
    """``[N, in_channels, H, W]`` to ``{"np": [N, 2, H, W], "hv": [N, 2, H, W], "tp": [N, types, H, W]}``.

    ``np`` scores background and object, ``hv`` are the maps, ``tp`` scores types of objects. H and W are multiples of
    8.

    Args:
        num_classes: channels of all outputs together: what is above four scores types, and with four there is no
            ``tp``.
        in_channels: of the images.
        width: multiplies every width.
    """

    def __init__(self, num_classes: int = 10, in_channels: int = 3, width: float = 1.0) -> None:
        super().__init__()
        types = num_classes - FOREGROUND - DIRECTIONS
        if types < 0:
            raise ValueError(f"num_classes={num_classes}: two score the foreground and two are maps, so 4 at least")
        first = scaled(_STAGES[0][0], width)
        self.stem = nn.Sequential(nn.Conv2d(in_channels, first, 7, padding=3, bias=False), *_norm(first))
        self.encoder = nn.ModuleList()
        before = first
        for inner, outer, units, stride in _STAGES:
            self.encoder.append(_stage(before, scaled(inner, width), scaled(outer, width), units, stride))
            before = scaled(outer, width)
        self.bottleneck = nn.Conv2d(before, scaled(_BOTTLENECK, width), 1, bias=False)
        outputs = {"np": FOREGROUND, "hv": DIRECTIONS} | ({"tp": types} if types else {})
        self.decoders = nn.ModuleDict({name: Decoder(channels, width) for name, channels in outputs.items()})
        initialize(self)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Every output at the size of the input."""
        x = self.stem(x)
        skips: list[Tensor] = []
        for stage in self.encoder:
            x = stage(x)
            skips.append(x)
        skips[-1] = self.bottleneck(x)
        return {name: decoder(skips) for name, decoder in self.decoders.items()}


class Residual(nn.Module):
    """A bottleneck unit whose norms come before its convolutions (1603.05027), except the first of a stage."""

    def __init__(self, before: int, inner: int, outer: int, *, stride: int, first: bool) -> None:
        super().__init__()
        self.preact = nn.Identity() if first else nn.Sequential(*_norm(before))
        self.body = nn.Sequential(
            *(nn.Conv2d(before, inner, 1, bias=False), *_norm(inner)),
            *(nn.Conv2d(inner, inner, 3, stride, 1, bias=False), *_norm(inner)),
            nn.Conv2d(inner, outer, 1, bias=False),
        )
        self.shortcut = nn.Conv2d(before, outer, 1, stride, bias=False) if first else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """``[N, before, H, W] -> [N, outer, H / stride, W / stride]``."""
        y: Tensor = self.body(self.preact(x)) + self.shortcut(x)
        return y


class DenseUnit(nn.Module):
    """Adds channels to its input (1608.06993): 1x1, then 3x3 in four groups."""

    def __init__(self, before: int, inner: int, growth: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *_norm(before),
            *(nn.Conv2d(before, inner, 1, bias=False), *_norm(inner)),
            nn.Conv2d(inner, growth, 3, padding=1, groups=GROUPS, bias=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        """``[N, before, H, W] -> [N, before + growth, H, W]``."""
        return torch.cat([x, self.body(x)], dim=1)


class Decoder(nn.Module):
    """One branch: three times twice as large, adding the encoder's output of that size; then one output."""

    def __init__(self, channels: int, width: float) -> None:
        super().__init__()
        inner, growth = (_grouped(size, width) for size in _UNIT)
        self.up = nn.Upsample(scale_factor=2, mode="nearest")
        self.stages = nn.ModuleList()
        before = scaled(_BOTTLENECK, width)
        for first, units, last in _DECODER:
            size = scaled(first, width)
            layers: list[nn.Module] = [nn.Conv2d(before, size, 3, padding=1, bias=False)]
            for _ in range(units):
                layers.append(DenseUnit(size, inner, growth))
                size += growth
            before = scaled(last, width)
            self.stages.append(nn.Sequential(*layers, *_norm(size), nn.Conv2d(size, before, 1, bias=False)))
        size = scaled(_STAGES[0][0], width)
        self.stages.append(nn.Conv2d(before, size, 3, padding=1, bias=False))
        self.head = nn.Sequential(*_norm(size), nn.Conv2d(size, channels, 1))

    def forward(self, skips: list[Tensor]) -> Tensor:
        """From the encoder's outputs, the largest first, to ``[N, channels, H, W]``."""
        *others, x = skips
        for stage in self.stages:
            x = stage(self.up(x) + others[-1])
            others = others[:-1]
        output: Tensor = self.head(x)
        return output


def hovernet(num_classes: int = 10, in_channels: int = 3, width: float = 1.0) -> HoVerNet:
    """HoVer-Net, fast; by default with six types of objects."""
    return HoVerNet(num_classes, in_channels, width)


def _stage(before: int, inner: int, outer: int, units: int, stride: int) -> nn.Sequential:
    layers = [Residual(before, inner, outer, stride=stride, first=True)]
    layers += [Residual(outer, inner, outer, stride=1, first=False) for _ in range(units - 1)]
    return nn.Sequential(*layers, *_norm(outer))


def _norm(channels: int) -> tuple[nn.Module, nn.Module]:
    return nn.BatchNorm2d(channels), nn.ReLU(inplace=True)


def _grouped(channels: int, width: float) -> int:
    """The scaled width, a multiple of the groups."""
    return GROUPS * max(1, round(channels * width / GROUPS))
