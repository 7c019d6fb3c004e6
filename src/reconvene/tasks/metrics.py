"""Metrics of segmentations (Dice, AJI, AJI+, panoptic quality), and synaptic operations of spiking networks.

Maps are integers ``[H, W]``, or ``[N, H, W]`` for several images; 0 is the background. An object is all pixels of one
number, connected or not, and numbers need not follow each other. ``average`` says how several images become one number:
``"images"``, the mean of each image's value, or ``"pooled"``, the value of counts summed over all images.

Where neither map holds an object there is nothing to get wrong, and every metric is 1 by convention; where only one of
them does, every metric is 0.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from reconvene.errors import DataError

if TYPE_CHECKING:
    from reconvene.costs.synops import Synops

Average = Literal["images", "pooled"]


def dice(predicted: ArrayLike | Tensor, true: ArrayLike | Tensor, *, average: Average = "images") -> float:
    """``2 |A and B| / (|A| + |B|)`` of the foregrounds (all pixels that are not 0).

    Example:
        >>> dice([[0, 1], [1, 1]], [[0, 1], [1, 0]])
        0.8

    Raises DataError: maps of different shapes, or that are no integers.
    """
    return _averaged(predicted, true, average, _dice_counts)


def aji(predicted: ArrayLike | Tensor, true: ArrayLike | Tensor, *, average: Average = "images") -> float:
    """Aggregated Jaccard index (Kumar et al. 2017): intersections over unions of true objects and their predictions.

    Each true object takes the prediction of largest IoU, and one prediction may be taken several times. True objects
    that nothing overlaps and predictions that nothing took add their area to the union. Not symmetric: predictions come
    first.

    Raises DataError: maps of different shapes, or that are no integers.
    """
    return _averaged(predicted, true, average, _aji_counts)


def aji_plus(predicted: ArrayLike | Tensor, true: ArrayLike | Tensor, *, average: Average = "images") -> float:
    """AJI with pairs one to one: those of the assignment with the largest sum of IoUs (Graham et al. 2019, HoVer-Net).

    Raises DataError as ``aji`` does; MissingExtraError without scipy.
    """
    return _averaged(predicted, true, average, _aji_plus_counts)


class PanopticQuality(float):
    """Panoptic quality as a number, with its parts: ``pq = dq * sq``.

    Attributes:
        dq: detection quality ``TP / (TP + FP / 2 + FN / 2)``, the F1 of objects.
        sq: segmentation quality, the mean IoU of matched pairs; 0 without any.
    """

    dq: float
    sq: float

    def __new__(cls, pq: float, dq: float, sq: float) -> PanopticQuality:
        """A number that remembers its parts."""
        quality = super().__new__(cls, pq)
        quality.dq, quality.sq = dq, sq
        return quality


def panoptic_quality(
    predicted: ArrayLike | Tensor, true: ArrayLike | Tensor, *, average: Average = "images"
) -> PanopticQuality:
    """``PQ = sum of IoU over matched pairs / (TP + FP / 2 + FN / 2)`` (Kirillov et al. 2019, 1801.00868), of one class.

    A pair matches where its IoU is strictly above 0.5. ``dq`` and ``sq`` of the result are averaged as ``pq`` is.

    Raises DataError: maps of different shapes, or that are no integers.
    """
    counts = [_panoptic_counts(Overlaps.of(a, b)) for a, b in _pairs(predicted, true)]
    if average == "pooled":
        return _quality(np.sum(counts, axis=0))
    _check_average(average)
    values = [_quality(count) for count in counts]
    return PanopticQuality(*(float(np.mean([getter(v) for v in values])) for getter in (float, _dq, _sq)))


@dataclass(frozen=True, eq=False)
class Overlaps:
    """Areas of objects and of their intersections.

    Attributes:
        shared: pixels of true object i and prediction j, int64 ``[true, predicted]``.
        true: pixels of each true object, ``predicted``: of each predicted one.
    """

    shared: NDArray[np.int64]
    true: NDArray[np.int64]
    predicted: NDArray[np.int64]

    @classmethod
    def of(cls, predicted: NDArray[np.int64], true: NDArray[np.int64]) -> Overlaps:
        """Those of two maps ``[H, W]``."""
        true_ids, rows = np.unique(true, return_inverse=True)
        predicted_ids, columns = np.unique(predicted, return_inverse=True)
        table = np.zeros((len(true_ids), len(predicted_ids)), dtype=np.int64)
        np.add.at(table, (rows.ravel(), columns.ravel()), 1)
        kept_rows, kept_columns = true_ids != 0, predicted_ids != 0
        return cls(table[kept_rows][:, kept_columns], table.sum(1)[kept_rows], table.sum(0)[kept_columns])

    @property
    def union(self) -> NDArray[np.int64]:
        """Pixels of either object of a pair ``[true, predicted]``."""
        return self.true[:, None] + self.predicted[None, :] - self.shared

    @property
    def iou(self) -> NDArray[np.float64]:
        """Intersection over union of every pair ``[true, predicted]``."""
        return np.asarray(self.shared / np.maximum(self.union, 1), dtype=np.float64)


_Counts = NDArray[np.float64]


def _averaged(
    predicted: ArrayLike | Tensor,
    true: ArrayLike | Tensor,
    average: Average,
    counts_of: Callable[[NDArray[np.int64], NDArray[np.int64]], tuple[int, int]],
) -> float:
    """A metric that is a quotient of two counts; 1 where both are 0."""
    _check_average(average)
    counts = [counts_of(a, b) for a, b in _pairs(predicted, true)]
    if average == "pooled":
        counts = [(sum(above for above, _ in counts), sum(below for _, below in counts))]
    return float(np.mean([above / below if below else 1.0 for above, below in counts]))


def _dice_counts(predicted: NDArray[np.int64], true: NDArray[np.int64]) -> tuple[int, int]:
    a, b = predicted != 0, true != 0
    return 2 * int((a & b).sum()), int(a.sum()) + int(b.sum())


def _aji_counts(predicted: NDArray[np.int64], true: NDArray[np.int64]) -> tuple[int, int]:
    overlaps = Overlaps.of(predicted, true)
    if not overlaps.shared.size:
        return 0, int(overlaps.true.sum() + overlaps.predicted.sum())
    best = overlaps.iou.argmax(1)
    rows = np.flatnonzero(overlaps.shared[np.arange(len(best)), best] > 0)
    return _aggregate(overlaps, rows, best[rows])


def _aji_plus_counts(predicted: NDArray[np.int64], true: NDArray[np.int64]) -> tuple[int, int]:
    from reconvene.tasks.extras import import_extra

    overlaps = Overlaps.of(predicted, true)
    if not overlaps.shared.size:
        return 0, int(overlaps.true.sum() + overlaps.predicted.sum())
    assign = import_extra("scipy.optimize", "scipy", "AJI+").linear_sum_assignment
    rows, columns = assign(overlaps.iou, maximize=True)
    touching = overlaps.shared[rows, columns] > 0
    return _aggregate(overlaps, rows[touching], columns[touching])


def _aggregate(overlaps: Overlaps, rows: NDArray[Any], columns: NDArray[Any]) -> tuple[int, int]:
    """Intersection and union of pairs (true ``rows``, predicted ``columns``), with what is in no pair in the union."""
    alone = np.delete(overlaps.true, rows).sum() + np.delete(overlaps.predicted, np.unique(columns)).sum()
    union = overlaps.union[rows, columns].sum() + alone
    return int(overlaps.shared[rows, columns].sum()), int(union)


def _panoptic_counts(overlaps: Overlaps) -> _Counts:
    """Sum of IoUs, true positives, false positives, false negatives."""
    # A pair matches where its IoU is strictly above one half: then no object can have two matches (1801.00868).
    # In whole numbers, since a quotient of exactly one half must not match.
    matched = 2 * overlaps.shared > overlaps.union
    hits = int(matched.sum())
    total = float(overlaps.iou[matched].sum())
    return np.array([total, hits, len(overlaps.predicted) - hits, len(overlaps.true) - hits], dtype=np.float64)


def _quality(counts: _Counts) -> PanopticQuality:
    total, hits, wrong, missed = counts.tolist()
    objects = hits + (wrong + missed) / 2
    if not objects:
        return PanopticQuality(1.0, 1.0, 1.0)
    return PanopticQuality(total / objects, hits / objects, total / hits if hits else 0.0)


def _dq(quality: PanopticQuality) -> float:
    return quality.dq


def _sq(quality: PanopticQuality) -> float:
    return quality.sq


def _pairs(
    predicted: ArrayLike | Tensor, true: ArrayLike | Tensor
) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """The maps image by image. Raises DataError."""
    maps = [_numbers(values) for values in (predicted, true)]
    if maps[0].shape != maps[1].shape or maps[0].ndim not in (2, 3) or not len(maps[0]):
        raise DataError(
            f"maps are [H, W] or [N, H, W], both alike: predicted is {list(maps[0].shape)}, true {list(maps[1].shape)}."
        )
    stacks = [values[None] if values.ndim == 2 else values for values in maps]
    return list(zip(*stacks, strict=True))


def _numbers(values: ArrayLike | Tensor) -> NDArray[np.int64]:
    array = values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)
    if array.dtype.kind not in "iub":
        raise DataError(f"a map numbers its objects with integers, not {array.dtype}. Try: scores > 0.5, or argmax.")
    return array.astype(np.int64)


def _check_average(average: str) -> None:
    if average not in ("images", "pooled"):
        raise DataError(f'average={average!r} is neither "images" nor "pooled".')


def synops(model: nn.Module, data: Iterable[Any], example_inputs: Any = None, *, seed: int = 0) -> Synops:
    """Synaptic operations of one example: accumulations where inputs are spikes, multiply-accumulates elsewhere.

    Args:
        model: any network; one without spikes has MACs alone.
        data: batches of inputs, or ``(inputs, target)``; targets are not read.
        example_inputs: find the state of a model that was not analysed before, and name entries of mappings.
        seed: of the numbers that the data draw.

    Returns:
        The counts by layer; ``.ac`` and ``.mac`` are the sums for one example.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> counted = synops(nn.Linear(4, 2), [torch.ones(3, 4)])
        >>> counted.ac, counted.mac
        (8.0, 0.0)

    Raises CriterionError: there are no data, or the model refuses a batch.
    """
    from reconvene.costs.synops import count_synops

    return count_synops(model, data, example_inputs, seed=seed)
