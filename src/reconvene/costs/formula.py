"""Formulas of files, such as ``ceil(height / 3) * k``: numbers, names, tables and arithmetic, and nothing else."""

from __future__ import annotations

import ast
import math
from collections.abc import Collection, Mapping
from math import ceil, floor, log2
from types import CodeType
from typing import Any

from reconvene.errors import CostFileError

FUNCTIONS = {
    "ceil": ceil,
    "floor": floor,
    "min": min,
    "max": max,
    "power2": lambda size: 2 ** ceil(log2(size)) if size > 0 else 0,
}
"""``power2`` is the next power of two: what memory takes whose addresses are made of bits."""
AmountTable = Mapping[Any, float]
_OPERATORS = (ast.Add, ast.Sub, ast.Mult, ast.Div, ast.FloorDiv, ast.Mod)
_LONGEST = 2000


class Formula:
    """An expression over named numbers, read from a file that nobody needs to trust: it can only compute a number.

    Args:
        text: ``+ - * / // %``, brackets, ``ceil floor min max power2``, names, and look-ups ``table[a, w]``.
        names: the numbers that it may use.
        tables: the tables that it may use, each by the number, or numbers in a tuple, of a look-up.
        place: where it stands, for messages.

    Raises:
        CostFileError: the text is no such expression.
    """

    def __init__(
        self, text: str, names: Collection[str], tables: Mapping[str, AmountTable] | None = None, *, place: str
    ) -> None:
        self.text, self._place, self._tables = text, place, dict(tables or {})
        self._code = self._compiled(text, names)

    def __call__(self, values: Mapping[str, float]) -> float:
        """The number that it gives. Raises CostFileError where a table lacks an entry, and for a division by zero."""
        try:
            number = float(eval(self._code, {"__builtins__": {}, **FUNCTIONS, **self._tables}, dict(values)))
        except KeyError as error:
            raise CostFileError(f"{self._place}: no table entry for {error.args[0]} in {self.text!r}") from error
        except (ZeroDivisionError, OverflowError, ValueError) as error:
            raise CostFileError(f"{self._place}: {error} in {self.text!r} at {dict(values)}") from error
        if not math.isfinite(number):
            raise CostFileError(f"{self._place}: {self.text!r} is {number} at {dict(values)}")
        return number

    def _compiled(self, text: str, names: Collection[str]) -> CodeType:
        if not isinstance(text, str) or len(text) > _LONGEST:
            raise CostFileError(f"{self._place}: {text!r:.60} is not a formula of at most {_LONGEST} characters")
        try:
            tree = ast.parse(text, mode="eval")
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            raise CostFileError(f"{self._place}: {text!r} cannot be read ({error})") from error
        self._check(tree.body, names)
        return compile(tree, self._place, "eval")

    def _check(self, node: ast.expr, names: Collection[str]) -> None:
        """Raise CostFileError for anything but arithmetic on known names."""
        match node:
            case ast.Constant(value=int() | float()) if not isinstance(node.value, bool):
                parts: list[ast.expr] = []
            case ast.Name(id=name):
                if name not in names:
                    raise CostFileError(
                        f"{self._place}: {name!r} in {self.text!r} is unknown. Known: {', '.join(sorted(names))}"
                    )
                parts = []
            case ast.BinOp(left=left, op=operator, right=right) if isinstance(operator, _OPERATORS):
                parts = [left, right]
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                parts = [operand]
            case ast.Call(func=ast.Name(id=function), args=arguments, keywords=[]) if function in FUNCTIONS:
                compares = function in ("min", "max")
                if (compares and len(arguments) < 2) or (not compares and len(arguments) != 1):
                    needed = "two numbers or more" if compares else "one number"
                    raise CostFileError(f"{self._place}: {function} takes {needed}, in {self.text!r}")
                parts = arguments
            case ast.Subscript(value=ast.Name(id=table), slice=index) if table in self._tables:
                parts = index.elts if isinstance(index, ast.Tuple) else [index]
            case _:
                raise CostFileError(
                    f"{self._place}: {ast.unparse(node)!r} in {self.text!r} is nothing that a formula may hold. It may "
                    f"hold numbers, + - * / // %, {', '.join(FUNCTIONS)}, names and tables: "
                    f"{', '.join(sorted([*names, *self._tables]))}"
                )
        for part in parts:
            self._check(part, names)
