"""What training asks of a network that rounds its weights and activations as an int8 runtime will; deploy has one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Protocol

from torch import Tensor, nn

from reconvene.errors import TrainingError
from reconvene.quantiser.activations import Range
from reconvene.training.config import TrainConfig
from reconvene.training.distillation import Distillation


class Rounded(nn.Module, ABC):
    """A network that computes what ``network`` does, but rounds; its parameters are those of ``network``, shared."""

    network: nn.Module
    rounding: nn.Module
    """What was learned about ranges, as buffers: a checkpoint keeps them."""

    @abstractmethod
    def at(self, progress: float) -> None:
        """Say how much of the training is done, in [0, 1], before a step."""

    def renewing(self) -> nn.Module:
        """What is run where the statistics of norms are taken anew: by default the network without any rounding."""
        return self.network

    @abstractmethod
    def ranges(self) -> Mapping[str, Range]:
        """The ranges of activations by the name of what puts them out."""


class Quantising(Protocol):
    """How a network is made to round while it is trained."""

    def rounded(self, network: nn.Module, images: Tensor) -> Rounded:
        """``network`` with rounding for batches like ``images``; it shares every parameter and buffer."""

    def to_dict(self) -> dict[str, Any]:
        """What makes this way this one, in plain JSON types."""


def settle_precision(config: TrainConfig) -> TrainConfig:
    """The recipe with ``precision`` decided, where it was left open."""
    return replace(config, precision="fp32") if config.precision == "auto" else config


def check_quantising(config: TrainConfig, distillation: Distillation | None) -> None:
    """Raise TrainingError for what rounding does not go together with, named with what would."""
    wrong = {
        "bfloat16 rounds as coarsely as int8 itself: take precision fp32 or auto": config.precision == "bf16",
        "a compiled model cannot be made to round: leave compile out": config.compile,
        "features cannot be followed in a network that rounds: take features=0": distillation is not None
        and distillation.features > 0,
    }
    if violations := [rule for rule, broken in wrong.items() if broken]:
        raise TrainingError(f"cannot train quantisation-aware: {'; '.join(violations)}.")
