"""Saliency: what a pruning-at-initialization criterion wants to keep of a network, weight by weight."""

from __future__ import annotations

from reconvene.criteria.base import Criterion
from reconvene.criteria.layerwise import LAYERWISE
from reconvene.criteria.masks import masks
from reconvene.criteria.objective import objective
from reconvene.criteria.registry import CRITERIA
from reconvene.criteria.score import Saliency, score
from reconvene.criteria.weights import weights

__all__ = ["CRITERIA", "LAYERWISE", "Criterion", "Saliency", "masks", "objective", "score", "weights"]
