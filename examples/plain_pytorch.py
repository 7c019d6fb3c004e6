"""Your own data set, your own network, your own loop: prune first, then train the small network as you would any other.

python examples/plain_pytorch.py
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

import reconvene as rc


class Stripes(Dataset[tuple[Tensor, int]]):
    """Noisy pictures ``[1, 16, 16]`` of four kinds: stripes that run across, down, or along either diagonal."""

    def __init__(self, count: int, seed: int) -> None:
        self.count, self.seed = count, seed

    def __len__(self) -> int:
        """How many pictures there are."""
        return self.count

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """A picture and its class."""
        generator = torch.Generator().manual_seed(self.seed * 100_000 + index)
        kind = index % 4
        row, column = torch.arange(16)[:, None], torch.arange(16)[None]
        position = (row + 0 * column, column + 0 * row, row + column, row - column)[kind]
        shift = int(torch.randint(6, (1,), generator=generator))
        picture = ((position + shift) % 6 < 3).float() + 0.5 * torch.randn(16, 16, generator=generator)
        return picture[None], kind


def network() -> nn.Module:
    """Any network of yours."""
    return nn.Sequential(
        *(nn.Conv2d(1, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(32, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(), nn.AdaptiveAvgPool2d(1)),
        *(nn.Flatten(), nn.Linear(64, 4)),
    )


def accuracy(model: nn.Module, data: Dataset[tuple[Tensor, int]]) -> float:
    """Share of right answers."""
    model.eval()
    with torch.no_grad():
        right = [(model(images).argmax(1) == labels).float() for images, labels in DataLoader(data, 64)]
    return float(torch.cat(right).mean())


def main(epochs: int = 4) -> tuple[nn.Module, list[float], float]:
    """The trained network, the loss of every step, and the accuracy on pictures that it has not seen."""
    torch.manual_seed(0)
    model, example_inputs = network(), torch.randn(1, 1, 16, 16)
    small = rc.prune(model, example_inputs, rc.Budget(params="4x"))
    print(f"{rc.measure(model, example_inputs, latency=False).params:,} parameters before,", end=" ")
    print(f"{rc.measure(small, example_inputs, latency=False).params:,} after")

    optimizer = torch.optim.SGD(small.parameters(), lr=0.1, momentum=0.9)
    losses = []
    for _ in range(epochs):
        small.train()
        for images, labels in DataLoader(Stripes(512, seed=1), batch_size=32, shuffle=True):
            optimizer.zero_grad()
            loss = F.cross_entropy(small(images), labels)
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
    return small, losses, accuracy(small, Stripes(256, seed=2))


if __name__ == "__main__":
    _, losses, right = main()
    print(f"loss {losses[0]:.3f} -> {losses[-1]:.3f}, accuracy {right:.1%}")
