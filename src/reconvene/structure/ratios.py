"""Sizes as functions of the widths of groups: linear forms, their quotients, and sizes that must differ."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class LinearCount:
    """``constant + sum(coefficient[g] * width[g])``."""

    constant: Fraction
    coefficients: tuple[tuple[int, Fraction], ...] = ()

    @property
    def fixed(self) -> bool:
        """Whether no width is in it."""
        return not self.coefficients

    def plus(self, term: LinearCount, scale: Fraction = Fraction(1)) -> LinearCount:
        """``self + scale * term``."""
        total = dict(self.coefficients)
        for group, coefficient in term.coefficients:
            total[group] = total.get(group, Fraction(0)) + scale * coefficient
        shares = tuple(sorted((g, c) for g, c in total.items() if c))
        return LinearCount(self.constant + scale * term.constant, shares)

    def times(self, factor: LinearCount) -> LinearCount | None:
        """The product, if at most one of the two depends on a width."""
        form, scalar = (self, factor) if factor.fixed else (factor, self)
        if scalar.fixed and scalar.constant == 1:
            return form
        return LinearCount(Fraction(0)).plus(form, scalar.constant) if scalar.fixed else None

    def at(self, widths: Sequence[int] | NDArray[np.int64]) -> Fraction:
        """The value at these widths."""
        return self.constant + sum((c * int(widths[g]) for g, c in self.coefficients), Fraction(0))


@dataclass(frozen=True)
class Ratio:
    """``top / bottom``, both linear: products and exact quotients of sizes stay in this form where they can."""

    top: LinearCount
    bottom: LinearCount = LinearCount(Fraction(1))

    def combine(self, op: str, right: Ratio) -> Ratio | None:
        """The result of ``+ - * /``, or ``None`` if it has no such form."""
        if op == "/":
            return self.combine("*", Ratio(right.bottom, right.top))
        if op == "*" and self.bottom == right.top:
            return Ratio(self.top, right.bottom)
        if op == "*" and self.top == right.bottom:
            return Ratio(right.top, self.bottom)
        bottom = self.bottom.times(right.bottom)
        if op == "*":
            top = self.top.times(right.top)
        else:
            first, second = self.top.times(right.bottom), right.top.times(self.bottom)
            sign = Fraction(1 if op == "+" else -1)
            top = first.plus(second, sign) if first is not None and second is not None else None
        return Ratio(top, bottom) if top is not None and bottom is not None else None

    @property
    def is_integer(self) -> bool:
        """Whether the value is a whole number at all widths."""
        numbers = (self.top.constant, *(coefficient for _, coefficient in self.top.coefficients))
        return self.bottom.fixed and all((number / self.bottom.constant).denominator == 1 for number in numbers)

    def difference(self, right: Ratio) -> LinearCount | None:
        """A linear form that is zero exactly where both are equal."""
        if self == right:
            return LinearCount(Fraction(0))
        if self.bottom == right.bottom:
            return self.top.plus(right.top, Fraction(-1))
        first, second = self.top.times(right.bottom), right.top.times(self.bottom)
        return first.plus(second, Fraction(-1)) if first is not None and second is not None else None

    def at(self, widths: NDArray[np.int64]) -> Fraction:
        """The value at these widths."""
        return self.top.at(widths) / self.bottom.at(widths)


@dataclass(frozen=True)
class DistinctSize:
    """An attribute that code compares with a size and finds different: it changes where both would be equal."""

    present: int
    size: Ratio
    dense: int
    """The dense size: the value of the attribute where the smaller size equals ``present``."""

    def at(self, widths: NDArray[np.int64]) -> Fraction:
        """The value at these widths."""
        return Fraction(self.dense if self.size.at(widths) == self.present else self.present)
