"""Sizes of tensors as functions of widths: every size is a product of factors that are linear in the widths.

So a cost that adds up sizes is evaluated in microseconds: no model is built while widths are searched.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from reconvene.structure import Structure
from reconvene.structure.labels import Dim, Vector

Ints = NDArray[np.int64]
_SIZES: WeakKeyDictionary[Structure, Sizes] = WeakKeyDictionary()


def sizes_of(structure: Structure) -> Sizes:
    """The factors of a structure, which all of its costs share."""
    if structure not in _SIZES:
        _SIZES[structure] = Sizes(structure)
    return _SIZES[structure]


class Sizes:
    """Numbers the distinct labelled factors of a model and evaluates their sizes."""

    def __init__(self, structure: Structure) -> None:
        self._atom_group, self._widths = structure.atom_group, structure.widths
        self._number: dict[tuple[int, ...], int] = {}
        self._rows: list[tuple[int, ...]] = []
        self._by_vector: dict[int, tuple[Vector, int]] = {}  # the vector is kept, so that its identity stays its own
        self._matrix: Ints | None = None
        self._latest: tuple[bytes, Ints] | None = None
        self.of_row((1, *[0] * len(self._widths)))

    def of_row(self, row: tuple[int, ...]) -> int:
        """The number of a factor ``row[0] + row[1:] @ widths``; number 0 is the constant one."""
        if row not in self._number:
            self._number[row] = len(self._rows)
            self._rows.append(row)
        return self._number[row]

    def of_vector(self, labels: Vector) -> int:
        """The number of a labelled factor."""
        if id(labels) not in self._by_vector:
            counts = np.bincount(self._atom_group[labels] + 1, minlength=len(self._widths) + 1)
            per_channel = counts[1:] // np.maximum(self._widths, 1)
            number = self.of_row((int(counts[0]), *(int(c) for c in per_channel)))
            self._by_vector[id(labels)] = labels, number
        return self._by_vector[id(labels)][1]

    def at(self, widths: Ints) -> Ints:
        """Sizes of all factors at these widths; those of the latest widths are kept, since every cost asks for them."""
        if self._matrix is None or len(self._matrix) != len(self._rows):
            self._matrix, self._latest = np.array(self._rows, dtype=np.int64), None
        key = np.asarray(widths, dtype=np.int64).tobytes()
        if self._latest is None or self._latest[0] != key:
            self._latest = key, self._matrix[:, 0] + np.dot(self._matrix[:, 1:], widths)
        return self._latest[1]


class Products:
    """A weighted sum of products of factors."""

    def __init__(
        self,
        sizes: Sizes,
        products: Sequence[Sequence[Dim]],
        weights: Sequence[float] | None = None,
        offset: int = 0,
    ) -> None:
        rows = [_monomial(sizes, dims) for dims in products]
        longest = max((len(numbers) for _, numbers in rows), default=1) or 1
        self.offset = offset
        scale = weights or [1] * len(rows)
        weighted = [c * w for (c, _), w in zip(rows, scale, strict=True)]
        whole = all(isinstance(weight, int) for weight in scale)
        self.coefficient = np.array(weighted, dtype=np.int64 if whole else np.float64)
        self.index = np.zeros((len(rows), longest), dtype=np.int64)
        for row, (_, numbers) in zip(self.index, rows, strict=True):
            row[: len(numbers)] = numbers

    def terms(self, sizes: Ints) -> Ints:
        """Every product at these factor sizes; of numbers with a point where a weight has one."""
        products: Ints = sizes[self.index].prod(axis=1)
        return np.multiply(self.coefficient, products)

    def at(self, sizes: Ints) -> float:
        """The sum at these factor sizes; a whole number where all weights are."""
        total = self.terms(sizes).sum().item()
        return total + self.offset  # type: ignore[no-any-return]


def _monomial(sizes: Sizes, dims: Sequence[Dim]) -> tuple[int, list[int]]:
    """The size of a tensor: its fixed part, and the numbers of the factors that widths decide."""
    factors = [factor for dim in dims for factor in dim]
    fixed = prod(size for size, labels in factors if labels is None)
    return fixed, [sizes.of_vector(labels) for _, labels in factors if labels is not None]
