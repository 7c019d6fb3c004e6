"""A segmentation network that is trained already: keep its weights, cut it, repair it from a few batches.

python examples/segmentation.py
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import reconvene as rc

Batch = tuple[Tensor, Tensor]


def batch(count: int, seed: int) -> Batch:
    """Noisy pictures ``[count, 1, 32, 32]`` of a bright disc, and maps ``[count, 32, 32]``: 1 in the disc, 0 around."""
    generator = torch.Generator().manual_seed(seed)
    centre = torch.randint(10, 22, (count, 2, 1, 1), generator=generator)
    radius = torch.randint(4, 9, (count, 1, 1), generator=generator)
    row, column = torch.arange(32)[:, None], torch.arange(32)[None]
    maps = ((row - centre[:, 0]) ** 2 + (column - centre[:, 1]) ** 2 < radius**2).long()
    return (maps + 0.6 * torch.randn(maps.shape, generator=generator))[:, None].float(), maps


class Segmenter(nn.Module):
    """Down once and up once, with a skip; two scores for every pixel."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(1, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU())
        self.deep = nn.Sequential(nn.Conv2d(width, 2 * width, 3, padding=1), nn.BatchNorm2d(2 * width), nn.ReLU())
        self.up = nn.ConvTranspose2d(2 * width, width, 2, stride=2)
        self.last = nn.Sequential(nn.Conv2d(2 * width, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, 2, 1))

    def forward(self, pictures: Tensor) -> Tensor:
        """Scores ``[N, 2, H, W]``."""
        fine = self.first(pictures)
        coarse = self.up(self.deep(F.max_pool2d(fine, 2)))
        scores: Tensor = self.last(torch.cat([fine, coarse], dim=1))
        return scores


def train(model: nn.Module, steps: int, *, lr: float, seed: int) -> None:
    """Plain Adam on the pixel-wise cross entropy."""
    optimizer = torch.optim.Adam(model.train().parameters(), lr=lr)
    for step in range(steps):
        pictures, maps = batch(16, seed + step)
        optimizer.zero_grad()
        F.cross_entropy(model(pictures), maps).backward()
        optimizer.step()


def dice(model: nn.Module) -> float:
    """Mean overlap with the discs of pictures that no network has seen."""
    pictures, maps = batch(64, seed=99_999)
    with torch.no_grad():
        predicted = model.eval()(pictures).argmax(1)
    return float(rc.metrics.dice(predicted.bool().numpy(), maps.bool().numpy()))


def main(steps: int = 40) -> dict[str, float]:
    """Dice of the dense network, right after the cut, and after a little more training."""
    torch.manual_seed(0)
    model = Segmenter()
    train(model, steps, lr=1e-2, seed=1)
    scores = {"dense": dice(model)}
    small = rc.prune(
        model,
        batch(1, seed=0)[0],
        rc.Budget(macs="2x"),
        trained=True,
        data=[batch(16, seed=50_000 + number) for number in range(8)],
        loss=F.cross_entropy,
    )
    scores["cut and repaired"] = dice(small)
    train(small, steps // 2, lr=2e-3, seed=2_000)
    scores["trained on"] = dice(small)
    return scores


if __name__ == "__main__":
    for name, score in main().items():
        print(f"{name}: Dice {score:.3f}")
