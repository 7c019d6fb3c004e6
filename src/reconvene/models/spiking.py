"""Spiking networks for 32x32 images and log-mels: a VGG, and a ResNet-18 whose blocks add drives.

An image is given to the first layer as a current, the same in every time step (direct coding). Class logits are the
mean over the steps.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from reconvene.models.layers import conv_bn, scaled
from reconvene.structure.neurons import Dynamics, neuron

_STEPS = 4
SLOPE = 4.0
"""Of the sigmoid whose derivative stands for that of a spike (a surrogate gradient); 1 at the threshold."""
_VGG_STAGES = ((64,), (128,), (256, 256), (512, 512))
_RESNET_WIDTHS = (64, 128, 256, 512)


@neuron(
    membrane="membrane",
    dynamics=lambda m: Dynamics(m.decay, m.threshold, reset="subtract", delayed=True),
)
class LeakyNeuron(nn.Module):
    """A leaky integrate-and-fire neuron: ``U[t + 1] = decay U[t] + I - threshold S[t]``, ``S = U > threshold``.

    The reset by subtraction comes one step later, as in snnTorch's ``Leaky``. The membrane is kept between calls;
    ``reset`` lets it begin anew.

    Args:
        decay: share of the membrane that stays in a step.
        threshold: above which it spikes.
        channels: decay and threshold are learned for each of so many channels; ``None``: they are constants.
    """

    decay: Tensor
    threshold: Tensor

    def __init__(self, decay: float = 0.75, threshold: float = 1.0, *, channels: int | None = None) -> None:
        super().__init__()
        for name, value in (("decay", decay), ("threshold", threshold)):
            if channels is None:
                self.register_buffer(name, torch.tensor(value))
            else:
                self.register_parameter(name, nn.Parameter(torch.full((channels, 1, 1), value)))
        self.membrane: Tensor | None = None

    def reset(self) -> None:
        """Begin anew."""
        self.membrane = None

    def forward(self, drive: Tensor) -> Tensor:
        """Spikes, 0 or 1, of the drive ``[N, C, H, W]`` of one time step."""
        membrane = drive
        if self.membrane is not None:
            spiked = (self.membrane > self.threshold).to(drive.dtype)
            membrane = self.decay * self.membrane + drive - spiked * self.threshold
        self.membrane = membrane
        above = membrane - self.threshold
        spikes = (above > 0).to(drive.dtype)
        if not torch.is_grad_enabled():
            return spikes
        smooth = torch.sigmoid(SLOPE * above)
        return spikes + (smooth - smooth.detach())


class SpikingNetwork(nn.Module):
    """What the spiking networks share: time steps, and a state that begins anew with every call.

    Subclasses define ``step``, one time step from ``[N, C, H, W]`` to logits; it carries the state of the step before.
    """

    def __init__(self, steps: int) -> None:
        super().__init__()
        if steps < 1:
            raise ValueError(f"steps={steps}: a spiking network takes one time step at least")
        self.steps = steps

    def reset(self) -> None:
        """Let all neurons begin anew."""
        for module in self.modules():
            if isinstance(module, LeakyNeuron):
                module.reset()

    def step(self, x: Tensor) -> Tensor:
        """One time step."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """Class logits, the mean over the time steps: ``[N, in_channels, H, W] -> [N, num_classes]``."""
        self.reset()
        total = self.step(x)
        for _ in range(self.steps - 1):
            total = total + self.step(x)
        return total / self.steps


class SpikingVGG(SpikingNetwork):
    """Four stages of convolutions, norms and neurons, each but the last followed by max pooling of the spikes."""

    def __init__(
        self, num_classes: int = 10, in_channels: int = 3, width: float = 1.0, steps: int = _STEPS, decay: float = 0.75
    ) -> None:
        super().__init__(steps)
        layers: list[nn.Module] = []
        channels = in_channels
        for stage, widths in enumerate(_VGG_STAGES):
            layers += [nn.MaxPool2d(2)] if stage else []
            for base_width in widths:
                layers += [*conv_bn(channels, scaled(base_width, width)), LeakyNeuron(decay)]
                channels = scaled(base_width, width)
        self.features = nn.Sequential(*layers)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(channels, num_classes)
        _initialize(self)

    def step(self, x: Tensor) -> Tensor:
        """One time step."""
        logits: Tensor = self.classifier(self.pool(self.features(x)).flatten(1))
        return logits


class SpikingBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut; the last neurons are driven by the sum of both."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, decay: float) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *conv_bn(in_channels, out_channels, stride=stride),
            LeakyNeuron(decay),
            *conv_bn(out_channels, out_channels),
        )
        same = stride == 1 and in_channels == out_channels
        self.shortcut = nn.Identity() if same else nn.Sequential(*conv_bn(in_channels, out_channels, 1, stride=stride))
        self.fire = LeakyNeuron(decay)

    def forward(self, x: Tensor) -> Tensor:
        """``[N, in, H, W] -> [N, out, H / stride, W / stride]``, spikes."""
        spikes: Tensor = self.fire(self.body(x) + self.shortcut(x))
        return spikes


class SpikingResNet(SpikingNetwork):
    """A 3x3 stem, stages of two blocks (each but the first halves the image), mean over space, one linear layer."""

    def __init__(
        self,
        widths: Sequence[int] = _RESNET_WIDTHS,
        num_classes: int = 10,
        in_channels: int = 3,
        width: float = 1.0,
        steps: int = _STEPS,
        decay: float = 0.75,
    ) -> None:
        super().__init__(steps)
        channels = scaled(widths[0], width)
        self.stem = nn.Sequential(*conv_bn(in_channels, channels), LeakyNeuron(decay))
        blocks: list[nn.Module] = []
        for stage, base_width in enumerate(widths):
            for position in range(2):
                stride = 2 if stage > 0 and position == 0 else 1
                blocks.append(SpikingBlock(channels, scaled(base_width, width), stride, decay))
                channels = scaled(base_width, width)
        self.blocks = nn.Sequential(*blocks)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(channels, num_classes)
        _initialize(self)

    def step(self, x: Tensor) -> Tensor:
        """One time step."""
        logits: Tensor = self.classifier(self.pool(self.blocks(self.stem(x))).flatten(1))
        return logits


def _initialize(model: nn.Module) -> None:
    """Weights of convolutions at ``N(0, 4 / fan_in)``: a quarter of the inputs spike, so drives spread by about one.

    With He initialization, which expects half of the inputs to be active, deep layers are silent in eval mode.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.normal_(module.weight, 0.0, (4 / module.weight[0].numel()) ** 0.5)
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, 0.0, 0.01)
            nn.init.zeros_(module.bias)


def snn_vgg(
    num_classes: int = 10, in_channels: int = 3, width: float = 1.0, steps: int = _STEPS, decay: float = 0.75
) -> SpikingVGG:
    """Spiking VGG with six convolutions, 4.5M parameters; images of 16x16 and more."""
    return SpikingVGG(num_classes, in_channels, width, steps, decay)


def snn_resnet18(
    num_classes: int = 10, in_channels: int = 3, width: float = 1.0, steps: int = _STEPS, decay: float = 0.75
) -> SpikingResNet:
    """Spiking ResNet-18 with a 3x3 stem, 11.2M parameters; images of 8x8 and more."""
    return SpikingResNet(_RESNET_WIDTHS, num_classes, in_channels, width, steps, decay)
