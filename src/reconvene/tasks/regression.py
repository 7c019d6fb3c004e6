"""Tasks whose outputs are numbers: of an image, or of every pixel of another image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from reconvene.errors import TrainingError
from reconvene.tasks.base import Picture, Targets, Task, as_picture

LEAST_ERROR = 1e-10
"""Mean squared error below which the signal to noise ratio no longer grows: 100 dB."""


class Regression(Task):
    """Numbers of an image: float32 ``[B]`` or ``[B, D]``, mean squared error; compared by the mean absolute error."""

    name, headline, targets = "regression", "mae", Targets.VALUES
    larger_is_better = False

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """Mean squared error."""
        return F.mse_loss(output.view_as(target), self.values(target))

    def metrics(self, output: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Mean absolute and mean squared error of each example."""
        error = (output.view_as(target) - self.values(target)).reshape(len(target), -1)
        return {"mae": error.abs().mean(1), "mse": error.square().mean(1)}

    def counts(self, output: Tensor, target: Tensor) -> Tensor:
        """The number of examples, and of every value of a target its sum and the sum of its squares."""
        values = self.values(target).double().reshape(len(target), -1)
        return torch.cat([values.new_tensor([len(values)]), values.sum(0), values.square().sum(0)])

    def doubt(self, metrics: Mapping[str, float], counts: Tensor) -> str | None:
        """Whether the mean of the targets, answered for every example, has no larger squared error."""
        sums, squares = counts[1:].chunk(2)
        constant = float((squares / counts[0] - (sums / counts[0]).square()).clamp_min(0).mean())
        if "mse" not in metrics or metrics["mse"] < constant or not constant:
            return None
        return (
            f"mean squared error {metrics['mse']:.4g} is no smaller than of a network that answers the mean of the "
            f"targets whatever it sees ({constant:.4g})"
        )

    def losses(self, output: Tensor, target: Tensor) -> Tensor:
        """The mean squared error of each example."""
        return self.metrics(output, target)["mse"]

    def values(self, target: Tensor) -> Tensor:
        """Targets as the numbers that outputs are compared with."""
        return target.float()

    def check(self, output: Any, target: Tensor, *, classes: Sequence[str], data: str, role: str = "the model") -> Any:
        """``output``, if it has the shape of the target, but for dimensions of one."""
        if not isinstance(output, Tensor) or _without_ones(output) != _without_ones(target):
            shape = list(output.shape) if isinstance(output, Tensor) else type(output).__name__
            raise TrainingError(
                f"{role} returns {shape} for targets {list(target.shape)} of {data}; {self.name} needs one number for "
                f"each, in the same order. Try: build the model with num_classes={self.outputs(classes, target)}."
            )
        return output

    def describe(self, classes: Sequence[str]) -> str:
        """What the targets are."""
        return "numbers to predict"


def _without_ones(values: Tensor) -> list[int]:
    """The shape, the batch and all other dimensions that are longer than one."""
    return [*values.shape[:1], *(size for size in values.shape[1:] if size != 1)]


class ImageToImage(Regression):
    """A picture from a picture: outputs float32 ``[B, C, H, W]`` in [0, 1], targets uint8; compared by the PSNR in dB.

    Denoising, colouring, restoration, and super-resolution of images that are enlarged to the size of their targets.
    """

    name, headline, targets = "image-to-image", "psnr", Targets.PICTURES
    larger_is_better, pipeline = True, "image-to-image"

    def metrics(self, output: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Peak signal to noise ratio ``10 log10(1 / mse)`` in dB (at most 100), mean absolute and squared error."""
        errors = super().metrics(output, target)
        return {"psnr": -10 * errors["mse"].clamp_min(LEAST_ERROR).log10(), **errors}

    def values(self, target: Tensor) -> Tensor:
        """Pixels in [0, 1]."""
        return target.float() / 255

    def describe(self, classes: Sequence[str]) -> str:
        """What the targets are."""
        return "pictures to predict"

    def draw(self, values: Tensor, *, is_target: bool = False) -> Picture:
        """The picture itself."""
        pixels = values.float() if is_target else 255 * values
        return as_picture(pixels.round().clamp(0, 255).to(torch.uint8))
