"""Scores of every channel of every prunable group."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from torch import nn

from reconvene.criteria.base import Loss
from reconvene.criteria.batches import EXPECTED
from reconvene.criteria.channels.base import ChannelSaliency, ChannelSubject
from reconvene.criteria.registry import channel_criterion
from reconvene.errors import CriterionError
from reconvene.structure import Structure
from reconvene.structure.nesting import on_model


@on_model
def score_channels(
    model: nn.Module,
    structure: Structure,
    example_inputs: Any,
    criterion: str,
    *,
    data: Iterable[Any] | None = None,
    loss: Loss | None = None,
    seed: int = 0,
) -> ChannelSaliency:
    """Score the channels of every group of ``structure.prunable`` by one of ``CHANNEL_CRITERIA``.

    The model, its mode and the random state are as before afterwards. A channel's score does not depend on where it
    stands: permuted channels have the permuted scores.

    Args:
        model: the trained model, only read.
        structure: its structure, as ``analyse`` found it.
        example_inputs: as for ``groups``.
        criterion: a name of ``CHANNEL_CRITERIA``.
        data: batches, as ``Batches`` takes them: ``(inputs, target)``, several targets, or mappings.
        loss: ``loss(output, target)``, a scalar; cross entropy by default. The target of a batch that is a mapping is
            that mapping.
        seed: of what the data draws.

    Raises:
        UnknownNameError: no such criterion of channels.
        CriterionError: data are missing, empty or refused by the model, or a score is not finite.
    """
    entry = channel_criterion(criterion)
    if entry.needs is not None and data is None:
        raise CriterionError(f"criterion {criterion!r} needs data, and got none. {EXPECTED}.")
    subject = ChannelSubject(
        model,
        structure,
        example_inputs,
        data if entry.needs is not None else None,
        loss if entry.needs == "loss" else None,
        seed,
    )
    result = entry.score(subject)
    for group, scores in zip(structure.prunable, result.scores, strict=True):
        if not np.isfinite(scores).all():
            raise CriterionError(f"criterion {criterion!r} gives group {group.name!r} scores that are not finite")
    return ChannelSaliency(entry.name, result.scores, result.order, result.data, entry.adds_up)
