"""Which of many examples or numbers are taken, where a few have to stand for all of them.

A fixed step suits data in random order and sorted data, and fails where their order has a period: of examples that go
through ten classes in turn, every second one is of one of five. So places are drawn, one within each even stretch.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from reconvene.utils.arrays import Ints


def spread_places(total: int, most: int) -> Ints:
    """``most`` of the first ``total`` whole numbers, or all of them, ascending: one drawn from each of even stretches.

    The same arguments give the same places.

    >>> spread_places(5, 8).tolist()
    [0, 1, 2, 3, 4]
    >>> places = spread_places(1000, 100)
    >>> [int(place) // 10 for place in places] == list(range(100)), len(set(places % 10))
    (True, 10)
    """
    count = min(total, most)
    if count == total:
        return np.arange(total, dtype=np.int64)
    bounds = np.arange(count + 1, dtype=np.int64) * total // count
    return np.random.Generator(np.random.PCG64([total, count])).integers(bounds[:-1], bounds[1:])


def stays(numbers: Ints, halvings: int) -> NDArray[np.bool_]:
    """Which of these numbers of examples stay after so many halvings: of each two that stayed before, one is drawn.

    Whether one stays depends on nothing but its number, so data may be halved before their end is known.

    >>> stays(np.arange(8), 1).reshape(4, 2).sum(1).tolist()
    [1, 1, 1, 1]
    >>> int(stays(np.arange(64), 3).sum())
    8
    """
    staying = np.ones(len(numbers), dtype=np.bool_)
    for level in range(halvings):
        pair, half = numbers >> (level + 1), (numbers >> level) & 1
        staying &= half == _bits(pair, level)
    return staying


def _bits(numbers: Ints, stream: int) -> Ints:
    """A random bit for every number (SplitMix64, Steele et al. 2014)."""
    with np.errstate(over="ignore"):
        mixed = numbers.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15) * np.uint64(stream + 1)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return (mixed >> np.uint64(63)).astype(np.int64)
