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
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def interrupt_at(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    original = TrainingRun._step

    def interrupted(self: TrainingRun, *args: Any) -> Any:
        if self.done == step:
            raise KeyboardInterrupt
        return original(self, *args)

    monkeypatch.setattr(TrainingRun, "_step", interrupted)
