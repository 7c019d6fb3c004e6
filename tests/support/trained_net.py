"""A small residual network, data that it can learn, and a few steps of training."""

from __future__ import annotations

import torch
from torch import Tensor, nn

X = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))


class Net(nn.Module):
    """A stem, two stages with residual blocks, and a head with a hidden layer."""

    def __init__(self, norms: bool = True) -> None:
        super().__init__()
        torch.manual_seed(0)
        norm = nn.BatchNorm2d if norms else lambda _: nn.Identity()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), norm(16), nn.ReLU())
        self.layer1 = nn.Sequential(
            nn.Conv2d(16, 24, 3, padding=1), norm(24), nn.ReLU(), nn.Conv2d(24, 16, 1), norm(16)
        )
        self.layer2 = nn.Sequential(nn.Conv2d(16, 32, 3, stride=2, padding=1), norm(32), nn.ReLU())
        self.head = nn.Sequential(nn.Linear(32, 20), nn.ReLU(), nn.Linear(20, 4))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = self.layer2((x + self.layer1(x)).relu())
        return self.head(x.mean((2, 3)))


def trained(net: nn.Module) -> nn.Module:
    """A few steps on a task that can be learned, so that statistics move and gradients say something."""
    torch.manual_seed(0)
    optimizer = torch.optim.Adam(net.parameters(), 3e-3)
    for inputs, target in batches(12, 32):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net.train()(inputs), target).backward()
        optimizer.step()
    return net.eval()


def batches(count: int = 4, size: int = 32) -> list[tuple[Tensor, Tensor]]:
    """Which quarter of the picture is brightest."""
    generator = torch.Generator().manual_seed(3)
    out = []
    for _ in range(count):
        inputs = torch.randn(size, 3, 8, 8, generator=generator)
        out.append((inputs, nn.functional.avg_pool2d(inputs.mean(1, keepdim=True), 4).flatten(1).argmax(1)))
    return out
