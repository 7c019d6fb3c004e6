"""What a criterion of channels is given, and what it gives back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from reconvene.criteria.base import Loss
from reconvene.structure import Structure
from reconvene.utils.arrays import Floats
from reconvene.utils.module_tree import device_of

Order = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class ChannelSubject:
    """A trained model whose channels are to be scored, and what its criterion declares to read (``needs``)."""

    model: nn.Module
    structure: Structure
    example_inputs: Any
    data: Iterable[Any] | None = None
    loss: Loss | None = None
    seed: int = 0

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return device_of(self.model)


@dataclass(frozen=True, eq=False)
class ChannelScores:
    """``scores[g]``: one number for every channel of prunable group ``g``, ``[width]``, high means keep.

    ``order[g]``: in what order its channels leave, where that is not the order of their scores. ``data``: what data was
    used, in words.
    """

    scores: list[Floats]
    order: list[Order] | None = None
    data: str | None = None


@dataclass(frozen=True)
class ChannelCriterion:
    """One entry of ``CHANNEL_CRITERIA``.

    ``score`` scores the channels of a subject. ``needs`` is what it reads beside the weights: ``data`` (inputs alone)
    or ``loss`` (inputs, targets and a loss); the subject holds nothing else, and without data there is an error.
    ``adds_up``: scores are in one unit for all groups, and what several channels lose together is estimated by their
    sum.
    """

    name: str
    score: Callable[[ChannelSubject], ChannelScores]
    needs: Literal["data", "loss"] | None = None
    adds_up: bool = False


@dataclass(frozen=True, eq=False)
class ChannelSaliency:
    """What a criterion of channels says about a network; ``scores``, ``order`` and ``data`` as in ``ChannelScores``.

    It follows no layer densities: ``levels`` is empty, as in a ``Saliency`` without levels.
    """

    criterion: str
    scores: list[Floats]
    order: list[Order] | None = None
    data: str | None = None
    adds_up: bool = False
    levels: Floats = field(default_factory=lambda: np.empty(0))
    densities: Mapping[str, Floats] = field(default_factory=dict)

    @property
    def note(self) -> str | None:
        """What a plan should say of where the scores come from."""
        return self.data

    def with_first(self, first: Sequence[NDArray[np.bool_]]) -> ChannelSaliency:
        """The same, but for channels that are worth nothing and leave before all others; ``[width]`` each."""
        scores = [
            np.where(mask, min(values.min(), 0.0), values) for mask, values in zip(first, self.scores, strict=True)
        ]
        order = [
            np.concatenate([leaving[mask[leaving]], leaving[~mask[leaving]]])
            for mask, leaving in zip(first, self.leaving, strict=True)
        ]
        return replace(self, scores=scores, order=order)

    @property
    def leaving(self) -> list[Order]:
        """Channels of every group in the order in which they leave; of equal scores the last first."""
        if self.order is not None:
            return self.order
        return [np.argsort(-scores, kind="stable")[::-1].astype(np.int64) for scores in self.scores]
