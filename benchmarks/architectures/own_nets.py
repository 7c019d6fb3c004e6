"""Small convolutional nets of our own, one for each mechanism."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations


def unit(into: int, out: int, *, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """Convolution, batch norm, ReLU."""
    return nn.Sequential(
        nn.Conv2d(into, out, 3, stride, 1, groups=groups, bias=False), nn.BatchNorm2d(out), nn.ReLU(inplace=True)
    )


class UNet(nn.Module):
    """Two levels down and up, with skips that are concatenated."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = unit(3, 16), unit(16, 32, stride=2), unit(32, 64, stride=2)
        self.up_b, self.up_a = nn.ConvTranspose2d(64, 32, 2, 2), nn.ConvTranspose2d(32, 16, 2, 2)
        self.mix_b, self.mix_a, self.head = unit(64, 32), unit(32, 16), nn.Conv2d(16, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        """``[batch, 3, h, w]`` to two maps of the same size."""
        a = self.a(x)
        b = self.b(a)
        b = self.mix_b(torch.cat([self.up_b(self.c(b)), b], dim=1))
        return self.head(self.mix_a(torch.cat([self.up_a(b), a], dim=1)))


class Dense(nn.Module):
    """A dense unit of HoVer-Net: each step is concatenated to all before it."""

    def __init__(self, width: int, grow: int, steps: int) -> None:
        super().__init__()
        self.steps = nn.ModuleList(
            nn.Sequential(
                nn.BatchNorm2d(width + i * grow),
                nn.ReLU(),
                nn.Conv2d(width + i * grow, 32, 1, bias=False),
                nn.BatchNorm2d(32),
                nn.ReLU(),
                nn.Conv2d(32, grow, 3, padding=1, groups=4, bias=False),
            )
            for i in range(steps)
        )
        self.last = nn.BatchNorm2d(width + steps * grow)

    def forward(self, x: Tensor) -> Tensor:
        """Concatenate all steps."""
        for step in self.steps:
            x = torch.cat([x, step(x)], dim=1)
        return F.relu(self.last(x))


class Decoder(nn.Module):
    """One branch of HoVer-Net: upsample, add the skip, dense unit."""

    def __init__(self, out: int) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(64, 32, 3, padding=1), nn.Conv2d(64, 16, 3, padding=1)
        self.dense = Dense(32, 8, 4)
        self.head = nn.Sequential(nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, out, 1))

    def forward(self, low: Tensor, middle: Tensor, high: Tensor) -> Tensor:
        """From three levels to one map."""
        x = self.dense(self.first(F.interpolate(low, scale_factor=2.0)) + middle)
        return self.head(self.second(F.interpolate(x, scale_factor=2.0)) + high)


class HoVerNet(nn.Module):
    """A residual encoder, additive skips, three decoders that share them, a dictionary of outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.high, self.middle, self.low = unit(3, 16), unit(16, 32, stride=2), unit(32, 64, stride=2)
        self.residual = nn.Sequential(unit(64, 64), nn.Conv2d(64, 64, 1))
        self.branches = nn.ModuleDict({"np": Decoder(2), "hv": Decoder(2), "tp": Decoder(5)})

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """One map a branch."""
        high = self.high(x)
        middle = self.middle(high)
        low = self.low(middle)
        low = F.relu(low + self.residual(low))
        return {name: branch(low, middle, high) for name, branch in self.branches.items()}


def normed_weights(apply: Callable[[nn.Module], nn.Module]) -> nn.Module:
    """Two convolutions under weight norm, between plain ones."""
    return nn.Sequential(
        nn.Conv1d(2, 16, 3, padding=1), nn.ReLU(), apply(nn.Conv1d(16, 24, 3, padding=1)), nn.ReLU(),
        apply(nn.Conv1d(24, 16, 3, padding=1)), nn.ReLU(), nn.Conv1d(16, 2, 1),
    )  # fmt: skip


def with_parametrization() -> nn.Module:
    """Weight norm as a parametrization."""
    return normed_weights(parametrizations.weight_norm)


def with_hook() -> nn.Module:
    """Weight norm as the hook it was before parametrizations."""
    from torch.nn.utils import weight_norm

    return normed_weights(weight_norm)


def one_dimension() -> nn.Module:
    """Convolutions over time, flattened into a linear layer."""
    return nn.Sequential(
        nn.Conv1d(2, 16, 5, 2), nn.BatchNorm1d(16), nn.ReLU(), nn.Conv1d(16, 24, 3, 2), nn.ReLU(), nn.Flatten(),
        nn.Linear(24 * 6, 32), nn.ReLU(), nn.Linear(32, 4),
    )  # fmt: skip


def three_dimensions() -> nn.Module:
    """Convolutions over space and time."""
    return nn.Sequential(
        nn.Conv3d(1, 8, 3, padding=1), nn.BatchNorm3d(8), nn.ReLU(), nn.MaxPool3d(2),
        nn.Conv3d(8, 16, 3, padding=1, groups=2), nn.GroupNorm(4, 16), nn.SiLU(), nn.AdaptiveAvgPool3d(1),
        nn.Flatten(), nn.Linear(16, 3),
    )  # fmt: skip


@dataclass
class Answer:
    """What ``Outputs`` returns."""

    scores: Tensor
    features: list[Tensor]


class Outputs(nn.Module):
    """The same features as a tuple, a dictionary or a dataclass."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.features, self.more, self.head = unit(3, 16), unit(16, 48, stride=2), nn.Linear(48, 4)

    def forward(self, x: Tensor) -> Any:
        """Scores, and the first features."""
        features = self.features(x)
        scores = self.head(self.more(features).mean((2, 3)))
        if self.kind == "tuple":
            return scores, features
        if self.kind == "dict":
            return {"scores": scores, "deep": {"features": [features]}}
        return Answer(scores, [features])


class TiedCoder(nn.Module):
    """An autoencoder that decodes with the transposed weights of its encoder."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(20, 32), nn.Linear(32, 12)
        self.bias = nn.Parameter(torch.zeros(32))

    def forward(self, x: Tensor) -> Tensor:
        """``[batch, 20]`` to its reconstruction."""
        code = F.relu(self.second(F.relu(self.first(x))))
        return F.linear(F.relu(F.linear(code, self.second.weight.t(), self.bias)), self.first.weight.t())


class InPlace(nn.Module):
    """A residual net that writes over its activations."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.left, self.right = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 16, 1), nn.Conv2d(16, 16, 1)
        self.gain, self.head = nn.Parameter(torch.ones(16, 1, 1)), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        """Class scores."""
        x = self.stem(x).relu_()
        x = x.clone().mul_(self.gain).add_(self.left(x)).clamp_(min=-3)
        x = F.silu(self.right(x).add_(x), inplace=True)
        return self.head(x.mean((2, 3)))


class StandardConv2d(nn.Conv2d):
    """Weight standardisation: every filter has mean zero and deviation one."""

    def forward(self, x: Tensor) -> Tensor:
        """Convolve with the standardised weight."""
        mean = self.weight.mean((1, 2, 3), keepdim=True)
        deviation = self.weight.std((1, 2, 3), keepdim=True) + 1e-5
        return F.conv2d(x, (self.weight - mean) / deviation, self.bias, self.stride, self.padding)


def weight_standardisation() -> nn.Module:
    """Three standardised convolutions with group norms."""
    return nn.Sequential(
        nn.Conv2d(3, 16, 3), nn.GroupNorm(4, 16), nn.ReLU(), StandardConv2d(16, 24, 3), nn.GroupNorm(4, 24), nn.ReLU(),
        StandardConv2d(24, 16, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 4),
    )  # fmt: skip


class Excite(nn.Module):
    """Squeeze and excitation around a depthwise convolution, with a gated linear unit."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.depthwise = unit(3, 24), unit(24, 24, groups=24)
        self.squeeze, self.excite = nn.Conv2d(24, 6, 1), nn.Conv2d(6, 24, 1)
        self.gate, self.head = nn.Conv2d(24, 40, 1), nn.Linear(20, 4)

    def forward(self, x: Tensor) -> Tensor:
        """Class scores."""
        x = self.depthwise(self.stem(x))
        x = x * self.excite(F.relu(self.squeeze(x.mean((2, 3), keepdim=True)))).sigmoid()
        return self.head(F.glu(self.gate(x), dim=1).mean((2, 3)))


class Shuffle(nn.Module):
    """Half of the channels pass by, then the two halves are shuffled into each other; pixel shuffle at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.branch, self.last = unit(3, 32), unit(16, 16), nn.Conv2d(32, 3 * 4, 1)
        self.spread, self.up = nn.Conv2d(32, 32, 1), nn.PixelShuffle(2)
        self.after = nn.Conv2d(8, 12, 1)

    def forward(self, x: Tensor) -> Tensor:
        """An image of twice the size."""
        left, right = self.stem(x).chunk(2, dim=1)
        x = torch.cat([left, self.branch(right)], dim=1)
        batch, channels, height, width = x.shape
        x = x.view(batch, 2, channels // 2, height, width).transpose(1, 2).reshape(batch, channels, height, width)
        return self.up(self.after(self.up(self.spread(x))))


class SingleChannel(nn.Module):
    """A convolution with one output channel, which is no depthwise one; its output gates the rest."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.attend, self.head = unit(3, 16), nn.Conv2d(16, 1, 1), nn.Conv2d(16, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        """A map of the same size."""
        x = self.stem(x)
        return self.head(x * self.attend(x).sigmoid())


class UnequalSplit(nn.Module):
    """Channels cut into unequal parts, used apart and joined again."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.small = unit(3, 32), unit(8, 8)
        self.large, self.head = unit(24, 24), nn.Linear(32, 4)

    def forward(self, x: Tensor) -> Tensor:
        """Class scores."""
        small, large = self.stem(x).split([8, 24], dim=1)
        return self.head(torch.cat([self.large(large), self.small(small)], dim=1).mean((2, 3)))


def activations() -> nn.Module:
    """Activations and norms with parameters of their own, and a transposed grouped convolution."""
    return nn.Sequential(
        nn.Conv2d(3, 16, 3), nn.PReLU(16), nn.InstanceNorm2d(16, affine=True),
        nn.ConvTranspose2d(16, 24, 2, 2, groups=2),
        nn.GroupNorm(1, 24), nn.PReLU(), nn.Dropout(0.0), nn.Conv2d(24, 8, 3), nn.RMSNorm([12, 12]), nn.Conv2d(8, 2, 1),
    )  # fmt: skip
