"""Modules of a few lines that tests of several folders use."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Square(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * x


class SingularValues(nn.Module):
    """An operator that no runtime has."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.linalg.svd(x)[1]


class Severed(nn.Linear):
    """A layer whose outputs do not depend on its weights."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input) * 0.0


class ByKeyword(nn.Module):
    """A linear layer of four inputs that is called with its input by keyword."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.fc = nn.Linear(4, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(input=x)
