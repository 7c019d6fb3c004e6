"""Sizes that Python keeps: integers that remember where they came from.

While a forward pass is recorded, integer attributes of modules and the shapes of tensors are handed out as ``Size``, an
``int`` that carries the expression it was computed by. Each one that comes back as a size (of a view, an expansion, a
split, a new tensor) or in a comparison gives an equation between attributes and sizes of tensors, which must hold
again for the smaller model (see ``equations``).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

Expression = tuple[Any, ...]
"""``("int", n)``, ``("attr", module, name, index, value)``, ``("dim", tensor, axis)`` or ``(op, left, right)``.

``op`` is one of ``+ - * /``.
"""


class TracedSize(int):
    """An integer with the expression it came from; arithmetic keeps the expression, everything else is an ``int``."""

    expression: Expression
    log: SizeLog

    def __new__(cls, value: int, expression: Expression, log: SizeLog) -> TracedSize:
        """The integer ``value``, known to be ``expression``; comparisons are noted in ``log``."""
        self = super().__new__(cls, value)
        self.expression = expression
        self.log = log
        return self

    def _with(self, value: Any, op: str, left: Any, right: Any) -> Any:
        if type(value) is not int:
            return value
        return TracedSize(value, (op, expression_of(left), expression_of(right)), self.log)

    def __add__(self, other: Any) -> Any:
        return self._with(int.__add__(self, other), "+", self, other)

    def __radd__(self, other: Any) -> Any:
        return self._with(int.__radd__(self, other), "+", other, self)

    def __sub__(self, other: Any) -> Any:
        return self._with(int.__sub__(self, other), "-", self, other)

    def __rsub__(self, other: Any) -> Any:
        return self._with(int.__rsub__(self, other), "-", other, self)

    def __mul__(self, other: Any) -> Any:
        return self._with(int.__mul__(self, other), "*", self, other)

    def __rmul__(self, other: Any) -> Any:
        return self._with(int.__rmul__(self, other), "*", other, self)

    def __floordiv__(self, other: Any) -> Any:
        return self._divided(int.__floordiv__(self, other), self, other)

    def __rfloordiv__(self, other: Any) -> Any:
        return self._divided(int.__rfloordiv__(self, other), other, self)

    def _divided(self, value: Any, left: Any, right: Any) -> Any:
        if type(value) is not int or not right or int(left) % int(right):
            return value  # a rounded quotient follows no equation
        return self._with(value, "/", left, right)

    def __eq__(self, other: object) -> Any:
        equal = int.__eq__(self, other)  # no answer to what is no integer: a tensor that holds one answers itself
        if equal is True and isinstance(other, TracedSize):
            self.log.equal(self.expression, other.expression)
        elif equal is False and isinstance(other, TracedSize):
            self.log.unequal(self.expression, other.expression)
        return equal

    def __ne__(self, other: object) -> Any:
        equal = self.__eq__(other)
        return equal if equal is NotImplemented else not equal

    __hash__ = int.__hash__

    def __reduce__(self) -> tuple[type[int], tuple[int]]:
        return int, (int(self),)

    def __deepcopy__(self, memo: Any) -> int:
        return int(self)

    def __copy__(self) -> int:
        return int(self)


def expression_of(value: Any) -> Expression:
    """The expression of an integer."""
    return value.expression if isinstance(value, TracedSize) else ("int", int(value))


@dataclass
class SizeLog:
    """Equations noted while recording, and which cuts follow sizes that are known."""

    equations: list[tuple[Expression, Expression, str]] = field(default_factory=list)
    differences: list[tuple[Expression, Expression]] = field(default_factory=list)
    """Expressions that code compared and that were not equal."""
    known_cuts: set[int] = field(default_factory=set)
    """Outputs of slices and splits all of whose sizes come from attributes and shapes."""
    chunks: set[int] = field(default_factory=set)
    """Outputs of ``chunk``, which says how many pieces there are and not how long they are."""
    literal: dict[int, list[int]] = field(default_factory=dict)
    """Outputs of views, with the axes whose sizes the code gives as plain numbers."""
    active: bool = True
    stack: list[str] = field(default_factory=lambda: [""])

    def equal(self, left: Expression, right: Expression) -> None:
        """Note that two expressions must stay equal."""
        if self.active and left is not right:
            self.equations.append((left, right, self.stack[-1]))

    def unequal(self, left: Expression, right: Expression) -> None:
        """Note that code saw two expressions differ."""
        if self.active:
            self.differences.append((left, right))

    def sized(self, tensor: Any, axis: int, size: Any) -> None:
        """Note that a dimension of a tensor has this size because the code said so."""
        if isinstance(size, TracedSize) and isinstance(tensor, Tensor):
            self.equal(("dim", tensor, axis), size.expression)
