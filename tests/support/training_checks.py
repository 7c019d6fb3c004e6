"""Comparisons of trained networks, and a training that stops at a step."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from reconvene.training.run import TrainingRun


def bytes_of(model: nn.Module) -> bytes:
    return b"".join(tensor.detach().contiguous().numpy().tobytes() for tensor in model.state_dict().values())


def same(one: nn.Module, other: nn.Module) -> bool:
    """Whether two modules hold the same tensors under the same names."""
    left, right = one.state_dict(), other.state_dict()
    return left.keys() == right.keys() and all(
        left[name].dtype == right[name].dtype and torch.equal(left[name], right[name]) for name in left
    )


def interrupt_at(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    original = TrainingRun._step

    def interrupted(self: TrainingRun, *args: Any) -> Any:
        if self.done == step:
            raise KeyboardInterrupt
        return original(self, *args)

    monkeypatch.setattr(TrainingRun, "_step", interrupted)
