"""Adversarial pictures: small changes of images that make a network answer wrong."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reconvene.data import Dataset
from reconvene.structure.fresh import call_afresh
from reconvene.utils.module_state import evaluating

_BATCH = 128


@dataclass(frozen=True)
class Attack:
    """Steps along the sign of the gradient, each pixel changed by at most ``strength`` of 255.

    One step is FGSM (1412.6572), taken at full strength. More are PGD (1706.06083): from a random start, each step a
    quarter of the strength, projected onto the allowed changes.
    """

    steps: int
    strength: int

    @property
    def name(self) -> str:
        """As tables have it: ``PGD-10, 8/255``."""
        return f"{'FGSM' if self.steps == 1 else f'PGD-{self.steps}'}, {self.strength}/255"

    def images(self, network: nn.Module, images: Tensor, labels: Tensor, dataset: Dataset, *, seed: int) -> Tensor:
        """Changed images that ``network`` should answer otherwise than ``labels``.

        They are pictures again: whole pixel values, as a device gets them from a camera or a file.

        Args:
            network: whose gradients the attacker has; its modes are restored.
            images: uint8 ``[N, C, H, W]``.
            labels: int64 ``[N]``.
            dataset: normalises images for the network.
            seed: of the random start.
        """
        generator = torch.Generator().manual_seed(seed)
        with evaluating(network), with_gradients():
            parts = [
                self._batch(network, images[i : i + _BATCH], labels[i : i + _BATCH], dataset, generator)
                for i in range(0, len(images), _BATCH)
            ]
        return torch.cat(parts)

    def _batch(
        self, network: nn.Module, images: Tensor, labels: Tensor, dataset: Dataset, generator: torch.Generator
    ) -> Tensor:
        clean, strength = images.float(), float(self.strength)
        low, high = (clean - strength).clamp_min(0), (clean + strength).clamp_max(255)
        pixels, step = clean, strength
        if self.steps > 1:
            noise = torch.rand(clean.shape, generator=generator) * 2 - 1
            pixels, step = (clean + strength * noise).clamp(0, 255), strength / 4
        for _ in range(self.steps):
            pixels = pixels.detach().requires_grad_()
            gradient = gradient_by(pixels, _loss(network, pixels, labels, dataset))
            pixels = torch.minimum(torch.maximum(pixels.detach() + step * gradient.sign(), low), high)
        return pixels.detach().round().to(torch.uint8)


def has_gradients(network: nn.Module, images: Tensor, labels: Tensor, dataset: Dataset) -> bool:
    """Whether the loss of any of these images changes with its pixels, by its gradient.

    It does not behind a hard threshold or ``round`` without a surrogate: attacks by gradients then change images at
    random, and say nothing of the network.
    """
    with evaluating(network), with_gradients():
        for start in range(0, len(images), _BATCH):
            pixels = images[start : start + _BATCH].float().requires_grad_()
            if bool(gradient_by(pixels, _loss(network, pixels, labels[start : start + _BATCH], dataset)).any()):
                return True
    return False


@contextmanager
def with_gradients() -> Iterator[None]:
    """Within: operations are recorded for gradients, whatever the caller has switched off."""
    with torch.inference_mode(False), torch.enable_grad():
        yield


def gradient_by(pixels: Tensor, loss: Tensor) -> Tensor:
    """The gradient of a loss by pixels; zeros where the loss does not depend on them by a gradient."""
    if not loss.requires_grad:
        return torch.zeros_like(pixels)
    (gradient,) = torch.autograd.grad(loss, pixels, allow_unused=True)
    return torch.zeros_like(pixels) if gradient is None else gradient


def _loss(network: nn.Module, pixels: Tensor, labels: Tensor, dataset: Dataset) -> Tensor:
    # The factor makes a copy, since ``normalise`` works in place.
    scores = call_afresh(network, dataset.normalise(pixels * 1)).float()
    return F.cross_entropy(scores, labels, reduction="sum")


ATTACKS = tuple(Attack(steps, strength) for steps in (1, 10) for strength in (2, 8))
