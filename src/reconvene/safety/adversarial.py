"""Adversarial pictures: small changes of images that make a network answer wrong."""

from __future__ import annotations

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
        with evaluating(network):
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
            # The factor makes a copy, since ``normalise`` works in place.
            loss = F.cross_entropy(call_afresh(network, dataset.normalise(pixels * 1)).float(), labels, reduction="sum")
            (gradient,) = torch.autograd.grad(loss, pixels)
            pixels = torch.minimum(torch.maximum(pixels.detach() + step * gradient.sign(), low), high)
        return pixels.detach().round().to(torch.uint8)


ATTACKS = tuple(Attack(steps, strength) for steps in (1, 10) for strength in (2, 8))
