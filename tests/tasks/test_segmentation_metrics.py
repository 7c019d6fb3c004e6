"""Metrics of segmentations against definitions written out in loops over pixels, on 200 random maps."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import reconvene as rc
from reconvene.errors import DataError

pytest.importorskip("scipy")
Map = NDArray[np.int64]


def random_map(rng: np.random.Generator, size: int = 12) -> Map:
    """Up to five rectangles that may overlap, numbered without order and with gaps; sometimes none."""
    numbers = np.zeros((size, size), dtype=np.int64)
    ids = rng.choice(np.arange(1, 40), 5, replace=False)
    for number in ids[: rng.integers(0, 6)]:
        top, left = rng.integers(0, size - 2, 2)
        height, width = rng.integers(1, 7, 2)
        numbers[top : top + height, left : left + width] = number
    return numbers


def moved(rng: np.random.Generator, numbers: Map) -> Map:
    """The same map shifted a little, with other numbers, and sometimes two objects merged."""
    shifted = np.roll(numbers, rng.integers(-1, 2, 2), axis=(0, 1))
    ids = [number for number in np.unique(shifted) if number]
    names = dict(zip(ids, rng.permutation(np.arange(50, 50 + len(ids))), strict=True))
    if len(ids) > 1 and rng.random() < 0.5:
        names[ids[0]] = names[ids[1]]
    return np.vectorize(lambda number: names.get(number, 0), otypes=[np.int64])(shifted)


def pixels(numbers: Map) -> list[set[tuple[int, int]]]:
    places: dict[int, set[tuple[int, int]]] = {}
    for place, number in np.ndenumerate(numbers):
        if number:
            places.setdefault(int(number), set()).add(place)
    return list(places.values())


def iou(a: set[tuple[int, int]], b: set[tuple[int, int]]) -> float:
    return len(a & b) / len(a | b)


def slow_dice(predicted: Map, true: Map) -> float:
    a, b = (set().union(*pixels(numbers)) for numbers in (predicted, true))
    return 2 * len(a & b) / (len(a) + len(b)) if a or b else 1.0


def slow_aji(predicted: Map, true: Map) -> float:
    objects, others = pixels(true), pixels(predicted)
    if not objects and not others:
        return 1.0
    above, below, used = 0, 0, set()
    for object_ in objects:
        best = max(range(len(others)), key=lambda j: iou(object_, others[j]), default=None)
        if best is None or not object_ & others[best]:
            below += len(object_)
            continue
        above, below = above + len(object_ & others[best]), below + len(object_ | others[best])
        used.add(best)
    return above / (below + sum(len(other) for j, other in enumerate(others) if j not in used))


def slow_aji_plus(predicted: Map, true: Map) -> float:
    """Every assignment is tried."""
    objects, others = pixels(true), pixels(predicted)
    if not objects and not others:
        return 1.0
    few, many = sorted((objects, others), key=len)
    best = max(
        itertools.permutations(range(len(many)), len(few)),
        key=lambda places: sum(iou(few[i], many[j]) for i, j in enumerate(places)),
    )
    pairs = [(few[i], many[j]) for i, j in enumerate(best) if few[i] & many[j]]
    above, below = sum(len(a & b) for a, b in pairs), sum(len(a | b) for a, b in pairs)
    everything = sum(map(len, objects)) + sum(map(len, others)) - sum(len(a) + len(b) for a, b in pairs)
    return above / (below + everything)


def slow_pq(predicted: Map, true: Map) -> tuple[float, float, float]:
    objects, others = pixels(true), pixels(predicted)
    matches = [iou(a, b) for a in objects for b in others if 2 * len(a & b) > len(a | b)]
    size = (len(objects) + len(others)) / 2
    if not size:
        return 1.0, 1.0, 1.0
    return sum(matches) / size, len(matches) / size, sum(matches) / len(matches) if matches else 0.0


def maps(count: int = 200) -> list[tuple[Map, Map]]:
    rng = np.random.default_rng(0)
    pairs = []
    for number in range(count):
        true = random_map(rng)
        pairs.append((moved(rng, true) if number % 2 else random_map(rng), true))
    return pairs


def test_everything_equals_brute_force_on_200_random_maps() -> None:
    empty = zero = differ = 0
    for predicted, true in maps():
        empty += not predicted.any() and not true.any()
        zero += bool(predicted.any()) != bool(true.any())
        differ += abs(slow_aji(predicted, true) - slow_aji_plus(predicted, true)) > 1e-9
        assert rc.metrics.dice(predicted, true) == pytest.approx(slow_dice(predicted, true), abs=1e-12)
        assert rc.metrics.aji(predicted, true) == pytest.approx(slow_aji(predicted, true), abs=1e-12)
        assert rc.metrics.aji_plus(predicted, true) == pytest.approx(slow_aji_plus(predicted, true), abs=1e-12)
        quality = rc.metrics.panoptic_quality(predicted, true)
        assert (float(quality), quality.dq, quality.sq) == pytest.approx(slow_pq(predicted, true), abs=1e-12)
        assert float(quality) == pytest.approx(quality.dq * quality.sq)
    assert empty and zero and differ > 20, "the maps hold the hard cases"


def test_empty_maps() -> None:
    nothing, thing = np.zeros((4, 4), int), np.eye(4, dtype=int)
    every = (rc.metrics.dice, rc.metrics.aji, rc.metrics.aji_plus, rc.metrics.panoptic_quality)
    assert [metric(nothing, nothing) for metric in every] == [1, 1, 1, 1]
    assert [metric(thing, nothing) for metric in every] == [0, 0, 0, 0]
    assert [metric(nothing, thing) for metric in every] == [0, 0, 0, 0]
    assert [metric(thing * 7, thing) for metric in every] == [1, 1, 1, 1]


def test_an_iou_of_just_one_half_is_no_match() -> None:
    true = np.array([[1, 1, 0, 0]])
    half, more = np.array([[1, 0, 0, 0]]), np.array([[1, 1, 1, 0]])
    assert rc.metrics.panoptic_quality(half, true) == 0.0 and rc.metrics.aji(half, true) == 0.5
    quality = rc.metrics.panoptic_quality(more, true)
    assert quality == pytest.approx(2 / 3) and quality.dq == 1.0
    # one third, six times over, is no half either, whatever it adds up to in floats
    assert rc.metrics.panoptic_quality(np.array([[1] * 6 + [0] * 6]), np.ones((1, 12), int)) == 0.0


def test_a_merge_is_counted_twice_by_aji_and_once_by_aji_plus() -> None:
    true, merged = np.array([[1, 1, 0, 2, 2]]), np.array([[9, 9, 9, 9, 9]])
    # both true objects take the merged one: (2 + 2) / (5 + 5); one to one: 2 / (5 + 2)
    assert rc.metrics.aji(merged, true) == pytest.approx(0.4)
    assert rc.metrics.aji_plus(merged, true) == pytest.approx(2 / 7)
    # the other way round, one true object over two predictions, both agree, and aji is not symmetric
    assert rc.metrics.aji(true, merged) == pytest.approx(2 / 7) == rc.metrics.aji_plus(true, merged)


def test_means_over_images_and_pooled_counts_differ() -> None:
    true = np.array([[[1, 1, 1, 1]], [[0, 0, 0, 0]]])
    predicted = np.array([[[1, 1, 1, 0]], [[1, 0, 0, 0]]])
    assert rc.metrics.dice(predicted, true) == pytest.approx((6 / 7 + 0) / 2)
    assert rc.metrics.dice(predicted, true, average="pooled") == pytest.approx(6 / 8)
    assert rc.metrics.panoptic_quality(predicted, true) == pytest.approx(0.75 / 2)
    assert rc.metrics.panoptic_quality(predicted, true, average="pooled") == pytest.approx(0.75 / 1.5)
    assert rc.metrics.aji(predicted, true, average="pooled") == pytest.approx(3 / 5)
    stacks = [torch.tensor(predicted), torch.tensor(true)]
    assert rc.metrics.aji_plus(*stacks) == pytest.approx(0.75 / 2)


@pytest.mark.parametrize(
    ("predicted", "true", "wrong"),
    [
        (np.zeros((2, 2)), np.zeros((2, 2), int), "integers, not float64"),
        (np.zeros((2, 2), int), np.zeros((2, 3), int), r"predicted is \[2, 2\], true \[2, 3\]"),
        (np.zeros(4, int), np.zeros(4, int), r"\[H, W\]"),
    ],
)
def test_what_is_no_map_is_refused(predicted: Map, true: Map, wrong: str) -> None:
    with pytest.raises(DataError, match=wrong):
        rc.metrics.aji(predicted, true)
    with pytest.raises(DataError, match="neither"):
        rc.metrics.dice(true, true, average="mean")
