"""Sizes of tensors as functions of widths: every size is a product of factors that are linear in the widths.

So a cost that adds up sizes is evaluated in microseconds: no model is built while widths are searched.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from weakref import WeakKeyDictionary

import numpy as np

from reconvene.structure import Structure
from reconvene.structure.labels import Dim, Vector
from reconvene.utils.arrays import Ints

_SIZES: WeakKeyDictionary[Structure, Sizes] = WeakKeyDictionary()


def sizes_of(structure: Structure) -> Sizes:
    """The factors of a structure, which all of its costs share."""
    if structure not in _SIZES:
        _SIZES[structure] = Sizes(structure)
    return _SIZES[structure]


Row = tuple[int, tuple[tuple[int, int], ...]]
"""A factor: its fixed positions, and the groups it depends on, each with the positions of one kept channel."""


class Sizes:
    """Numbers the distinct labelled factors of a model and evaluates their sizes.

    A factor depends on few groups, so factors are sparse rows: a matrix of factors by groups would make every
    evaluation quadratic in the number of layers.
    """

    def __init__(self, structure: Structure) -> None:
        self._atom_group, self._widths = structure.atom_group, structure.widths
        self._number: dict[Row, int] = {(1, ()): 0}
        self._by_vector: dict[int, tuple[Vector, int]] = {}  # the vector is kept, so that its identity stays its own
        self._table: _Table | None = None
        self._latest: tuple[bytes, Ints] | None = None

    def of_vector(self, labels: Vector) -> int:
        """The number of a labelled factor; number 0 is the constant one."""
        if id(labels) not in self._by_vector:
            groups, counts = np.unique(self._atom_group[labels], return_counts=True)
            members = list(zip(groups.tolist(), counts.tolist(), strict=True))
            fixed = sum(count for group, count in members if group < 0)
            row = fixed, tuple((g, count // max(int(self._widths[g]), 1)) for g, count in members if g >= 0)
            self._by_vector[id(labels)] = labels, self._number.setdefault(row, len(self._number))
        return self._by_vector[id(labels)][1]

    def at(self, widths: Ints) -> Ints:
        """Sizes of all factors at these widths; those of the latest widths are kept, since every cost asks for them."""
        if self._table is None or len(self._table.fixed) != len(self._number):
            self._table, self._latest = _Table(list(self._number)), None
        key = np.asarray(widths, dtype=np.int64).tobytes()
        if self._latest is None or self._latest[0] != key:
            self._latest = key, self._table.at(widths)
        return self._latest[1]


class _Table:
    """Factors as arrays: their fixed positions, and the entries of those that depend on widths, one after the other."""

    def __init__(self, rows: Sequence[Row]) -> None:
        lengths = np.array([len(members) for _, members in rows], dtype=np.int64)
        self.fixed = np.array([fixed for fixed, _ in rows], dtype=np.int64)
        self.dependent = np.flatnonzero(lengths)
        self.starts = (np.cumsum(lengths) - lengths)[self.dependent]
        entries = [entry for _, members in rows for entry in members]
        self.group, self.times = np.array(entries, dtype=np.int64).reshape(-1, 2).T

    def at(self, widths: Ints) -> Ints:
        sizes = self.fixed.copy()
        if len(self.dependent):
            sizes[self.dependent] += np.add.reduceat(self.times * widths[self.group], self.starts)
        return sizes


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
        self.index = np.zeros((longest, len(rows)), dtype=np.int64)
        for column, (_, numbers) in enumerate(rows):
            self.index[: len(numbers), column] = numbers

    def terms(self, sizes: Ints) -> Ints:
        """Every product at these factor sizes; of numbers with a point where a weight has one."""
        products: Ints = sizes[self.index[0]]
        for factors in self.index[1:]:  # a long product for each factor: numpy is slow at many short ones
            products = products * sizes[factors]
        terms: Ints = np.multiply(self.coefficient, products)
        return terms

    def at(self, sizes: Ints) -> float:
        """The sum at these factor sizes; a whole number where all weights are."""
        total = self.terms(sizes).sum().item()
        return total + self.offset  # type: ignore[no-any-return]


def _monomial(sizes: Sizes, dims: Sequence[Dim]) -> tuple[int, list[int]]:
    """The size of a tensor: its fixed part, and the numbers of the factors that widths decide."""
    factors = [factor for dim in dims for factor in dim]
    fixed = prod(size for size, labels in factors if labels is None)
    return fixed, [sizes.of_vector(labels) for _, labels in factors if labels is not None]
