"""Sound: convolutions over a waveform and a GRU behind them, pruned before training, then exported to ONNX.

pip install 'reconvene[onnx]'; python examples/audio.py
"""

from __future__ import annotations

import sys
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import reconvene as rc

RATE, SAMPLES = 4_000, 1_000
PITCHES = (220.0, 330.0, 440.0, 660.0)


def sounds(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """A quarter of a second of noisy tones ``[count, 1, 1000]``, and which of the four pitches each has."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(len(PITCHES), (count,), generator=generator)
    pitch = torch.tensor(PITCHES)[labels] * (1 + 0.03 * torch.randn(count, generator=generator))
    phase = 6.28 * torch.rand(count, 1, generator=generator)
    wave = torch.sin(2 * torch.pi * pitch[:, None] * torch.arange(SAMPLES) / RATE + phase)
    return (wave + 0.5 * torch.randn(wave.shape, generator=generator))[:, None], labels


class Listener(nn.Module):
    """Four strided convolutions make 62 frames of the waveform; a GRU reads them; its last state decides."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        sizes = (1, width, width, 2 * width, 2 * width)
        blocks = [
            nn.Sequential(nn.Conv1d(a, b, 9, stride=2, padding=4), nn.BatchNorm1d(b), nn.ReLU())
            for a, b in pairwise(sizes)
        ]
        self.frames = nn.Sequential(*blocks)
        self.gru = nn.GRU(2 * width, 2 * width, batch_first=True)
        self.head = nn.Linear(2 * width, len(PITCHES))

    def forward(self, wave: Tensor) -> Tensor:
        """Scores ``[N, 4]`` of waveforms ``[N, 1, samples]``."""
        frames = self.frames(wave).transpose(1, 2)
        states, _ = self.gru(frames)
        scores: Tensor = self.head(states[:, -1])
        return scores


def main(folder: str | Path | None = None, steps: int = 60) -> tuple[nn.Module, list[float], float]:
    """The trained network, the loss of every step, and its accuracy; with ``folder`` also ``model.onnx`` in there."""
    torch.manual_seed(0)
    small = rc.prune(Listener(), torch.randn(1, 1, SAMPLES), rc.Budget(params="4x", macs="2x"))
    optimizer = torch.optim.Adam(small.parameters(), lr=5e-3)
    losses = []
    for step in range(steps):
        waves, labels = sounds(32, seed=step)
        optimizer.zero_grad()
        loss = F.cross_entropy(small(waves), labels)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    waves, labels = sounds(256, seed=10_000)
    with torch.no_grad():
        right = float((small.eval()(waves).argmax(1) == labels).float().mean())
    if folder is not None:
        print(rc.export(small, folder, format="onnx", example_inputs=waves[:1]))
    return small, losses, right


if __name__ == "__main__":
    _, losses, right = main(sys.argv[1] if len(sys.argv) > 1 else None)
    print(f"loss {losses[0]:.3f} -> {losses[-1]:.3f}, accuracy {right:.1%}")
