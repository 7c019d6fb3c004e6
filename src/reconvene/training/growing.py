"""What training asks of masks under which channels leave a network and come back; planning has them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from torch import Tensor, nn

from reconvene.errors import TrainingError
from reconvene.training.config import TrainConfig


class Masks(Protocol):
    """Masks on the channels of a network in training."""

    def step(self, done: float) -> None:
        """Note what an optimizer step saw, and let channels leave and come back; ``done`` of all steps, 0 to 1."""

    def cut(self) -> nn.Module:
        """The network without the masked channels, in eval mode."""

    def state_dict(self) -> Mapping[str, Tensor]:
        """What a checkpoint keeps."""

    def load_state_dict(self, state: Any) -> Any:
        """Go on where ``state_dict`` was called."""


class Growing(Protocol):
    """How a network is masked while it is trained."""

    def masked(self, network: nn.Module, images: Tensor) -> Masks:
        """Masks on ``network`` itself, for batches like ``images``."""

    def to_dict(self) -> dict[str, Any]:
        """What makes this way this one, in plain JSON types."""


def check_growing(config: TrainConfig, processes: int, quantising: object) -> None:
    """Raise TrainingError for what masks do not go together with, named with what would."""
    wrong = {
        "a compiled model does not see its masks move: leave compile out": config.compile,
        "masks move in one process: leave torchrun out": processes > 1,
        "roundings come behind the cut: train with --qat afterwards": quantising is not None,
    }
    if violations := [rule for rule, broken in wrong.items() if broken]:
        raise TrainingError(f"cannot let channels leave and come back: {'; '.join(violations)}.")
