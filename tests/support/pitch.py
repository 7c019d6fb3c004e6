"""Tones of known pitch, and how well a network of pitch (CREPE's outputs) hears them."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from support.public_weights import CREPE_BINS

RATE, SAMPLES = 16_000, 1024
CENTS = 1997.3794084376191 + 20 * torch.arange(CREPE_BINS, dtype=torch.float64)
"""Of every output of the network, above 10 Hz."""


def tones(count: int, *, seed: int) -> tuple[Tensor, Tensor]:
    """Frames ``[count, SAMPLES]`` of mean 0 and deviation 1, and their pitch in cents above 10 Hz ``[count]``."""
    generator = torch.Generator().manual_seed(seed)
    low, high = (1200 * math.log2(hertz / 10) for hertz in (50.0, 1000.0))
    cents = low + (high - low) * torch.rand(count, generator=generator, dtype=torch.float64)
    hertz = 10 * 2 ** (cents / 1200)
    harmonics = torch.arange(1, 9, dtype=torch.float64)
    loudness = torch.rand(count, 8, generator=generator, dtype=torch.float64) / harmonics
    loudness[:, 0] += 0.5
    audible = hertz[:, None] * harmonics < RATE / 2
    phases = 2 * math.pi * torch.rand(count, 8, generator=generator, dtype=torch.float64)
    seconds = torch.arange(SAMPLES, dtype=torch.float64) / RATE
    waves = torch.sin(2 * math.pi * hertz[:, None, None] * harmonics[:, None] * seconds + phases[..., None])
    frames = (waves * (loudness * audible)[..., None]).sum(1)
    noise = torch.randn(count, SAMPLES, generator=generator, dtype=torch.float64)
    frames += 0.7 * torch.rand(count, 1, generator=generator, dtype=torch.float64) * noise
    frames = (frames - frames.mean(1, keepdim=True)) / frames.std(1, keepdim=True)
    return frames.float(), cents


def batches_of_tones(count: int, *, seed: int, size: int = 64) -> list[tuple[Tensor, Tensor]]:
    """Batches of ``size`` frames, each with the outputs nearest to their pitch, as ``pitch_loss`` takes them."""
    frames, cents = tones(count, seed=seed)
    targets = (CENTS - cents[:, None]).abs().argmin(1)
    return list(zip(frames.split(size), targets.split(size), strict=True))


def pitch_loss(output: Tensor, target: Tensor) -> Tensor:
    """Binary cross-entropy with a bell of 25 cents around the bin ``target`` ``[N]``, as CREPE was trained."""
    bell = torch.exp(-((CENTS - CENTS[target][:, None]) ** 2) / (2 * 25.0**2)).to(output.dtype)
    return functional.binary_cross_entropy(output, bell)


def raw_pitch_accuracy(network: nn.Module, frames: Tensor, cents: Tensor) -> float:
    """Share of frames whose pitch, the mean around the largest output, is within 50 cents of ``cents`` ``[N]``."""
    with torch.inference_mode():
        output = torch.cat([network(part) for part in frames.split(256)]).double()
    near = (torch.arange(CREPE_BINS) - output.argmax(1, keepdim=True)).abs() <= 4
    weights = output * near
    predicted = (weights * CENTS).sum(1) / weights.sum(1)
    return float(((predicted - cents).abs() <= 50).double().mean())
