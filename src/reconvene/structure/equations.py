"""Equations between the sizes that Python keeps and the widths of groups.

A size is linear in the widths wherever one factor of the dimension can shrink. An attribute that is used as a size is
*owned* by that size and follows it; every further equation about it links widths of groups, and becomes a balance for
the solver. What is not linear is pinned.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction
from math import lcm
from typing import Any

import numpy as np

from reconvene.structure.groups import Balance, Group
from reconvene.structure.labels import Dim, Vector
from reconvene.structure.ratios import DistinctSize, LinearCount, Ratio
from reconvene.structure.rules import Context
from reconvene.structure.traced_size import Expression, SizeLog

Attribute = tuple[str, str, int | None]


@dataclass
class _Equations:
    """What the sizes in the code demand of the widths."""

    owned: dict[Attribute, Ratio] = field(default_factory=dict)
    """Attributes that follow sizes."""
    distinct: dict[Attribute, DistinctSize] = field(default_factory=dict)
    """Attributes that no size gives, and that must go on to differ from one."""
    balances: list[Balance] = field(default_factory=list)
    pinned: list[tuple[Dim, str]] = field(default_factory=list)
    """Dimensions in equations that are not linear, with the reason."""
    unions: list[tuple[Vector, Vector]] = field(default_factory=list)
    """Dimensions of constants that are as long as a group is wide, with the atoms of that group."""


def solve_equations(
    context: Context, log: SizeLog, groups: tuple[Group, ...], solved: tuple[Vector, Vector, Vector]
) -> _Equations:
    """Give every attribute its owner, and turn what remains into balances or pins.

    Args:
        context: labels of all tensors.
        log: the equations.
        groups: the prunable groups.
        solved: channel, group and number in the group of every atom.
    """
    return _Solver(context, groups, solved).run(log)


class _Solver:
    def __init__(self, context: Context, groups: tuple[Group, ...], solved: tuple[Vector, Vector, Vector]) -> None:
        self.context = context
        self.root, self.atom_group, self.atom_channel = solved
        self.widths = np.array([g.width for g in groups], dtype=np.int64)
        self.out = _Equations()
        self.sizes: dict[tuple[int, int], LinearCount | None] = {}
        self.counts: dict[int, LinearCount] = {}
        self.attributes: dict[int, list[Attribute]] = {}

    def run(self, log: SizeLog) -> _Equations:
        pending = list(log.equations)
        for inverse in (False, True):  # a size used as it is says more of an attribute than one used in a product
            pending = self._own_all(pending, inverse)
        while any(self._own_largest(equation) for equation in pending):
            pending = self._own_all(pending, True)
        for left, right, layer in pending:
            if self._adopted(left, right):
                continue
            self._balance(left, right, f"{layer or 'the model'} keeps sizes that depend on each other")
        for left, right in log.differences:
            self._keep_distinct(left, right)
            self._keep_distinct(right, left)
        return self.out

    def _keep_distinct(self, left: Expression, right: Expression) -> None:
        """A branch on ``left != right`` must go the same way, however small the size on the right becomes."""
        if left[0] != "attr" or left[1:4] in self.out.owned:
            return
        size = self.value(right)
        if size is not None and not (size.top.fixed and size.bottom.fixed):
            self.out.distinct[left[1:4]] = DistinctSize(int(left[4]), size, int(size.at(self.widths)))

    def _own_all(
        self, pending: list[tuple[Expression, Expression, str]], inverse: bool
    ) -> list[tuple[Expression, Expression, str]]:
        open_equations = [e for e in pending if self._attributes(e[0]) or self._attributes(e[1])]
        owned: set[int] = set()
        while True:
            solved = {id(equation) for equation in open_equations if self._own(equation, inverse)}
            if not solved:
                return [equation for equation in pending if id(equation) not in owned]
            owned |= solved
            open_equations = [equation for equation in open_equations if id(equation) not in solved]

    def _own_largest(self, equation: tuple[Expression, Expression, str]) -> bool:
        """Of several unknown attributes on one side the largest is a width; the others count things and stay."""
        for side, opposite in (equation[:2], equation[1::-1]):
            unknown = self._unknown(side)
            target = self.value(opposite) if len(unknown) > 1 and not self._unknown(opposite) else None
            if target is None or target.top.fixed:
                continue
            largest = max(unknown, key=lambda key: _present(key, side))
            constants = {key: Ratio(LinearCount(Fraction(_present(key, side)))) for key in unknown if key != largest}
            self.out.owned |= constants
            answer = self._invert(side, target)
            for key in constants:
                del self.out.owned[key]
            if answer is not None and answer.is_integer:
                self.out.owned[largest] = answer
                return True
        return False

    def _own(self, equation: tuple[Expression, Expression, str], inverse: bool) -> bool:
        for side, opposite in (equation[:2], equation[1::-1]):
            unknown = self._unknown(side)
            if len(unknown) != 1 or self._unknown(opposite) or (side[0] != "attr" and not inverse):
                continue
            target = self.value(opposite)
            answer = self._invert(side, target) if target is not None else None
            if answer is not None:
                self.out.owned[unknown[0]] = answer
                return True
        return False

    def _unknown(self, expression: Expression) -> list[Attribute]:
        return [key for key in self._attributes(expression) if key not in self.out.owned]

    def _attributes(self, expression: Expression) -> list[Attribute]:
        """The attributes in an expression, each once; expressions live as long as the log."""
        terms = self.attributes.get(id(expression))
        if terms is None:
            if expression[0] in "+-*/":
                terms = list(dict.fromkeys(self._attributes(expression[1]) + self._attributes(expression[2])))
            else:
                terms = [expression[1:4]] if expression[0] == "attr" else []
            self.attributes[id(expression)] = terms
        return terms

    def _invert(self, expression: Expression, target: Ratio) -> Ratio | None:
        """What the one unknown attribute must be for the expression to equal ``target``."""
        if expression[0] == "attr":
            return target
        op, left, right = expression
        unknown_left = bool(self._unknown(left))
        if unknown_left and self._unknown(right):
            return None
        known_value = self.value(right if unknown_left else left)
        if known_value is None:
            return None
        if unknown_left or op in "+*":
            required = target.combine({"+": "-", "-": "+", "*": "/", "/": "*"}[op], known_value)
        else:
            required = known_value.combine(op, target)
        return self._invert(left if unknown_left else right, required) if required is not None else None

    def value(self, expression: Expression) -> Ratio | None:
        """An expression in widths; attributes nobody owns stay as they are."""
        tag = expression[0]
        if tag == "int":
            return Ratio(LinearCount(Fraction(expression[1])))
        if tag == "dim":
            size = self._size(expression[1], expression[2])
            return Ratio(size) if size is not None else None
        if tag == "attr":
            return self.out.owned.get(expression[1:4])
        left, right = self.value(expression[1]), self.value(expression[2])
        return left.combine(tag, right) if left is not None and right is not None else None

    def _size(self, tensor: Any, axis: int) -> LinearCount | None:
        key = (id(tensor), axis)
        if key not in self.sizes:
            self.sizes[key] = self._linear(self.context.dims(tensor)[axis])
        return self.sizes[key]

    def _linear(self, dim: Dim) -> LinearCount | None:
        total: LinearCount | None = LinearCount(Fraction(1))
        for size, labels in dim:
            factor = LinearCount(Fraction(size)) if labels is None else self._count(labels)
            total = total.times(factor) if total is not None else None
        return total

    def _count(self, labels: Vector) -> LinearCount:
        """How many positions of a label vector stay, in widths."""
        count = self.counts.get(id(labels))
        if count is None:
            amounts = np.bincount(self.atom_group[labels] + 1, minlength=len(self.widths) + 1)
            moving = tuple(
                (int(g), Fraction(int(amounts[g + 1]), int(self.widths[g]))) for g in np.flatnonzero(amounts[1:])
            )
            count = self.counts[id(labels)] = LinearCount(Fraction(int(amounts[0])), moving)
        return count

    def _adopted(self, left: Expression, right: Expression) -> bool:
        """Let a dimension that no parameter has (of a constant, of copies) have the channels whose number it has."""
        for side, opposite in ((left, right), (right, left)):
            dim = self.context.dims(side[1])[side[2]] if side[0] == "dim" else ()
            labels = dim[0][1] if len(dim) == 1 else None
            if labels is None or (self.atom_group[labels] >= 0).any() or not self.root[labels].all():
                continue
            value = self.value(opposite)
            if value is None or value.bottom != LinearCount(Fraction(1)) or value.top.constant:
                continue
            if len(value.top.coefficients) == 1 and value.top.coefficients[0][1] == 1:
                atoms = np.flatnonzero(self.atom_group == value.top.coefficients[0][0])
                first = np.unique(self.atom_channel[atoms], return_index=True)[1]
                if len(first) == len(labels):
                    self.out.unions.append((labels, atoms[first]))
                    return True
        return False

    def _balance(self, left: Expression, right: Expression, reason: str) -> None:
        unknown = [key for side in (left, right) for key in self._unknown(side)]
        for key in unknown:  # two attributes that only know each other: neither follows anything
            self.out.owned[key] = Ratio(LinearCount(Fraction(_present(key, left, right))))
        left_value, right_value = self.value(left), self.value(right)
        difference = left_value.difference(right_value) if left_value is not None and right_value is not None else None
        for key in unknown:
            del self.out.owned[key]
        if difference is None:
            self.out.pinned += [(dim, reason) for side in (left, right) for dim in self._dims(side)]
        elif not difference.fixed and difference.at(self.widths) == 0:
            self.out.balances.append(_as_balance(difference, reason))

    def _dims(self, expression: Expression) -> list[Dim]:
        if expression[0] == "dim":
            return [self.context.dims(expression[1])[expression[2]]]
        if expression[0] in "+-*/":
            return self._dims(expression[1]) + self._dims(expression[2])
        return []


def _present(key: Attribute, *sides: Expression) -> int:
    """The value an attribute had while recording."""
    for side in sides:
        value = _find(key, side)
        if value is not None:
            return value
    return 1


def _find(key: Attribute, expression: Expression) -> int | None:
    if expression[0] == "attr":
        return int(expression[4]) if expression[1:4] == key else None
    if expression[0] in "+-*/":
        left = _find(key, expression[1])
        return left if left is not None else _find(key, expression[2])
    return None


def _as_balance(zero: LinearCount, reason: str) -> Balance:
    """``positive part == negative part``, in whole numbers."""
    scale = lcm(zero.constant.denominator, *(c.denominator for _, c in zero.coefficients))
    positive = {g: int(c * scale) for g, c in zero.coefficients if c > 0}
    negative = {g: int(-c * scale) for g, c in zero.coefficients if c < 0}
    constant = int(zero.constant * scale)
    return Balance((positive, negative), (max(constant, 0), max(-constant, 0)), reason)
