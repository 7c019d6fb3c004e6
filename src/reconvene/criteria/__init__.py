"""Saliency: what a criterion wants to keep of a network, weight by weight or, of trained ones, channel by channel."""

from __future__ import annotations

from reconvene.criteria.base import Criterion
from reconvene.criteria.channels.base import ChannelSaliency
from reconvene.criteria.channels.score import score_channels
from reconvene.criteria.layerwise import LAYERWISE
from reconvene.criteria.masks import masks_at
from reconvene.criteria.objective import objective
from reconvene.criteria.registry import CHANNEL_CRITERIA, CRITERIA
from reconvene.criteria.score import Saliency, score
from reconvene.criteria.weights import weights

__all__ = [
    "CHANNEL_CRITERIA",
    "CRITERIA",
    "LAYERWISE",
    "ChannelSaliency",
    "Criterion",
    "Saliency",
    "masks_at",
    "objective",
    "score",
    "score_channels",
    "weights",
]
