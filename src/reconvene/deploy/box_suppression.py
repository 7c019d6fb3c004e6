"""Suppression of overlapping boxes without a branch on their number, for exporters: only data tell that number."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor


@contextmanager
def one_suppression() -> Iterator[None]:
    """Within: torchvision's ``batched_nms`` takes one way for any number of boxes, to the same choice.

    torchvision loops over classes for many boxes, moves classes apart for few, and returns early for none. Modules that
    imported the function itself (``from torchvision.ops import batched_nms``) keep the name they have for it.
    """
    # a model that suppresses boxes has imported torchvision
    homes: list[Any] = [sys.modules[n] for n in ("torchvision.ops.boxes", "torchvision.ops") if n in sys.modules]
    originals = [home.batched_nms for home in homes]
    try:
        for home in homes:
            home.batched_nms = _batched_nms
        yield
    finally:
        for home, original in zip(homes, originals, strict=True):
            home.batched_nms = original


def _batched_nms(boxes: Tensor, scores: Tensor, idxs: Tensor, iou_threshold: float) -> Tensor:
    """Indices of boxes that stay, by falling score. Classes are moved apart so far that no two of them overlap."""
    from torchvision.ops import nms

    # a zero beside them: no boxes have no largest coordinate
    furthest = torch.cat([boxes.flatten(), boxes.new_zeros(1)]).max()
    offsets = idxs.to(boxes) * (furthest + 1)
    chosen: Tensor = nms(boxes + offsets[:, None], scores, iou_threshold)
    return chosen
