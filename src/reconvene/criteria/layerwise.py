"""Densities fixed layer by layer, under which a criterion only decides which weights of a layer stay.

They are options beside the global threshold, and with ``criterion="random"`` they are strong baselines.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from reconvene.criteria.topk import keep_largest, kept
from reconvene.criteria.weights import Layout
from reconvene.errors import UnknownNameError

LAST_LAYER = 0.3


def _uniform(shapes: Sequence[torch.Size], density: float) -> NDArray[np.float64]:
    """The same density in every layer."""
    return np.full(len(shapes), density)


def erk(shapes: Sequence[torch.Size], density: float) -> NDArray[np.float64]:
    """Erdos-Renyi kernel (1911.11134): density proportional to the sum of a weight's dimensions over their product."""
    return _filled(np.array([sum(shape) / math.prod(shape) for shape in shapes]), shapes, density)


def smart_ratio(shapes: Sequence[torch.Size], density: float) -> NDArray[np.float64]:
    """Smart ratio (2009.11094): ``(L - l + 1)^2 + (L - l + 1)`` for layer ``l`` of ``L``, but 0.3 for the last."""
    depth = len(shapes)
    wish = np.array([(depth - layer) ** 2 + (depth - layer) for layer in range(depth)], dtype=np.float64)
    if depth == 1:
        return np.array([density])
    last = max(LAST_LAYER, density)
    budget = density * sum(math.prod(shape) for shape in shapes) - last * math.prod(shapes[-1])
    inner = sum(math.prod(shape) for shape in shapes[:-1])
    if budget <= 0:  # a last layer this large cannot keep its share
        return _filled(wish, shapes, density)
    return np.append(_filled(wish[:-1], shapes[:-1], min(1.0, budget / inner)), last)


LAYERWISE: dict[str, Callable[[Sequence[torch.Size], float], NDArray[np.float64]]] = {
    "uniform": _uniform,
    "erk": erk,
    "smart_ratio": smart_ratio,
}


def keep_by_layer(scores: Tensor, layout: Layout, density: float, rule: str, *, alive: Tensor | None) -> Tensor:
    """Mask ``[N]`` of the largest scores of each layer, as many as ``LAYERWISE[rule]`` gives it; exact in total.

    A layer whose share rounds to nothing keeps one weight, which the layer that keeps most gives up.
    """
    if rule not in LAYERWISE:
        raise UnknownNameError("layer-wise density", rule, LAYERWISE)
    room = layout.sizes if alive is None else [int(view.sum()) for view in layout.views(alive).values()]
    counts = _rounded_counts(LAYERWISE[rule](layout.shapes, density) * layout.sizes, room, kept(density, layout.total))
    living = [None] * len(room) if alive is None else list(torch.split(alive, layout.sizes))
    pieces = [
        keep_largest(piece, count, alive=live) if count else torch.zeros(piece.numel(), dtype=torch.bool)
        for piece, count, live in zip(torch.split(scores, layout.sizes), counts, living, strict=True)
    ]
    return torch.cat(pieces)


def _filled(wish: NDArray[np.float64], shapes: Sequence[torch.Size], density: float) -> NDArray[np.float64]:
    """Densities proportional to ``wish``, none above one, that keep ``density`` of all weights."""
    sizes = np.array([math.prod(shape) for shape in shapes], dtype=np.float64)
    full = np.zeros(len(sizes), dtype=bool)
    while True:
        left = density * sizes.sum() - sizes[full].sum()
        scale = left / (wish * sizes)[~full].sum() if not full.all() else 0.0
        densities = np.where(full, 1.0, scale * wish)
        if (densities <= 1.0).all():
            return np.asarray(densities, dtype=np.float64)
        full |= densities > 1.0


def _rounded_counts(ideal: NDArray[np.float64], room: Sequence[int], total: int) -> list[int]:
    """Whole numbers near ``ideal``, none above ``room``, that add up to ``total``: largest remainders first."""
    counts = np.minimum(np.floor(ideal).astype(np.int64), room)
    order = np.argsort(np.floor(ideal) - ideal, kind="stable")
    while (missing := total - int(counts.sum())) > 0:
        open_layers = [layer for layer in order if counts[layer] < room[layer]]
        counts[open_layers[:missing]] += 1
    for layer in np.flatnonzero((counts == 0) & (np.array(room) > 0)):
        largest = int(np.argmax(counts))
        if counts[largest] > 1:
            counts[layer], counts[largest] = 1, counts[largest] - 1
    return [int(count) for count in counts]
