"""Networks and data for the tests of formats: pruned four times, trained briefly on digits, kept for the session."""

from __future__ import annotations

import functools
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

import reconvene as rc
from reconvene.data import Dataset, calibration, load_data, test_batches
from reconvene.models import resolve_address
from reconvene.training import TrainConfig, train_model

CLASSIFIERS = ("vgg16_bn", "resnet20", "mobilenetv2", "torchvision:resnet18", "timm:resnet10t")
NAMES = (*CLASSIFIERS, "unet")
SHAPE = (3, 32, 32)
EPOCHS, LONGER = 3, {"mobilenetv2": 8, "resnet20": 6, "resnet8": 8}
"""Depthwise layers learn slowly: after three epochs many scores of a MobileNetV2 are nearly ties, which int8 turns; a
ResNet-20 is at 72 % then where a processor has no bfloat16."""


@functools.cache
def digits() -> Dataset:
    return load_data("digits", input_shape=SHAPE)


@functools.cache
def trained(name: str) -> nn.Module:
    """``name`` with a quarter of its parameters, trained on digits; unet learns to tell a digit's strokes by class."""
    epochs = LONGER.get(name, EPOCHS)
    source = resolve_address(name, {"num_classes": 10}, input_shape=SHAPE, seed=0)
    with torch.random.fork_rng():
        model = rc.prune(source.build(), torch.randn(1, *SHAPE), budget=rc.Budget(params="4x"), seed=0)
        if name == "unet":
            _train_dense(model, epochs)
        else:
            with TemporaryDirectory() as folder:
                train_model(model, digits(), epochs=epochs, directory=Path(folder), config=TrainConfig(lr=0.05))
    return model


def images(count: int) -> Tensor:
    """Normalised test images."""
    return digits().normalise(digits().test.images[:count])


def calibrating() -> Any:
    return calibration(digits(), 60, batch_size=20)


def labelled(name: str) -> list[tuple[Tensor, Tensor]]:
    """All test images with their classes: of the image, or of each pixel."""
    batches = test_batches(digits(), batch_size=64)
    return [(x, _pixels(x, y)) if name == "unet" else (x, y) for x, y in batches]


def _pixels(images: Tensor, labels: Tensor) -> Tensor:
    """Class of every pixel: the digit's where there is ink, else 0."""
    ink = images.mean(1) > 0.5
    return torch.where(ink, labels[:, None, None], torch.zeros((), dtype=torch.int64))


def _train_dense(model: nn.Module, epochs: int) -> None:
    torch.manual_seed(0)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    x, y = digits().normalise(digits().train.images), digits().train.targets
    model.train()
    for _ in range(epochs):
        for rows in torch.randperm(len(x)).split(32):
            loss = nn.functional.cross_entropy(model(x[rows]), _pixels(x[rows], y[rows]))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
