"""Sizes as functions of the widths of groups: linear forms, their quotients, and sizes that must differ."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Linear:
    """``constant + sum(coefficient[g] * width[g])``."""

    constant: Fraction
    coefficients: tuple[tuple[int, Fraction], ...] = ()

    @property
    def fixed(self) -> bool:
        """Whether no width is in it."""
        return not self.coefficients

    def plus(self, other: Linear, scale: Fraction = Fraction(1)) -> Linear:
        """``self + scale * other``."""
        total = dict(self.coefficients)
        for group, coefficient in other.coefficients:
            total[group] = total.get(group, Fraction(0)) + scale * coefficient
        kept = tuple(sorted((g, c) for g, c in total.items() if c))
        return Linear(self.constant + scale * other.constant, kept)

    def times(self, other: Linear) -> Linear | None:
        """The product, if at most one of the two depends on a width."""
        one, two = (self, other) if other.fixed else (other, self)
        return Linear(Fraction(0)).plus(one, two.constant) if two.fixed else None

    def at(self, widths: Sequence[int] | NDArray[np.int64]) -> Fraction:
        """The value at these widths."""
        return self.constant + sum((c * int(widths[g]) for g, c in self.coefficients), Fraction(0))


@dataclass(frozen=True)
class Ratio:
    """``top / bottom``, both linear: products and exact quotients of sizes stay in this form where they can."""

    top: Linear
    bottom: Linear = Linear(Fraction(1))

    def combine(self, op: str, other: Ratio) -> Ratio | None:
        """The result of ``+ - * /``, or ``None`` if it has no such form."""
        if op == "/":
            return self.combine("*", Ratio(other.bottom, other.top))
        if op == "*" and self.bottom == other.top:
            return Ratio(self.top, other.bottom)
        if op == "*" and self.top == other.bottom:
            return Ratio(other.top, self.bottom)
        bottom = self.bottom.times(other.bottom)
        if op == "*":
            top = self.top.times(other.top)
        else:
            first, second = self.top.times(other.bottom), other.top.times(self.bottom)
            sign = Fraction(1 if op == "+" else -1)
            top = first.plus(second, sign) if first is not None and second is not None else None
        return Ratio(top, bottom) if top is not None and bottom is not None else None

    @property
    def whole(self) -> bool:
        """Whether the value is a whole number at all widths."""
        numbers = (self.top.constant, *(coefficient for _, coefficient in self.top.coefficients))
        return self.bottom.fixed and all((number / self.bottom.constant).denominator == 1 for number in numbers)

    def difference(self, other: Ratio) -> Linear | None:
        """A linear form that is zero exactly where both are equal."""
        if self.bottom == other.bottom:
            return self.top.plus(other.top, Fraction(-1))
        first, second = self.top.times(other.bottom), other.top.times(self.bottom)
        return first.plus(second, Fraction(-1)) if first is not None and second is not None else None

    def at(self, widths: NDArray[np.int64]) -> Fraction:
        """The value at these widths."""
        return self.top.at(widths) / self.bottom.at(widths)


@dataclass(frozen=True)
class Apart:
    """An attribute that code only compares with a size and finds different: it changes where the two would meet."""

    present: int
    size: Ratio
    dense: int
    """The whole size, which the smaller one does not reach where it meets ``present``."""

    def at(self, widths: NDArray[np.int64]) -> Fraction:
        """The value at these widths."""
        return Fraction(self.dense if self.size.at(widths) == self.present else self.present)
