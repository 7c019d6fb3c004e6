"""Saliency: what a pruning-at-initialization criterion wants to keep of a network, weight by weight."""

from __future__ import annotations

from reconvene.saliency.layerwise import LAYERWISE
from reconvene.saliency.masks import masks
from reconvene.saliency.objective import objective
from reconvene.saliency.registry import CRITERIA
from reconvene.saliency.score import Saliency, score
from reconvene.saliency.subject import Criterion
from reconvene.saliency.weights import weights

__all__ = ["CRITERIA", "LAYERWISE", "Criterion", "Saliency", "masks", "objective", "score", "weights"]
