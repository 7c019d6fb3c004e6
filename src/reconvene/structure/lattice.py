"""Widths that satisfy equations, as points of a lattice: how to get from one solution to a smaller one.

Growing widths one equation at a time may run past solutions: ``3 w - 2 == 22 h`` holds for ``(8, 1)`` and ``(30, 4)``
and nowhere between. The differences of solutions form a lattice, whose short vectors lead from any solution to those
around it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product
from typing import Protocol, TypeVar

import numpy as np

from reconvene.utils.arrays import Widths

FEW = 3
"""With so many free directions or fewer, all their sums and differences are tried."""


class Equation(Protocol):
    """Pieces that keep equal counts: each maps groups to how many positions one kept channel fills."""

    @property
    def pieces(self) -> tuple[dict[int, int], ...]:
        """The pieces."""
        ...


E = TypeVar("E", bound=Equation)


def systems(equations: Sequence[E], count: int) -> list[tuple[tuple[int, ...], list[E]]]:
    """Groups ``0 .. count - 1`` linked by a chain of equations, ascending, and these equations in their order.

    A group of no equation stands alone.
    """
    linked: dict[int, tuple[int, ...]] = {g: (g,) for g in range(count)}
    for equation in equations:
        together = tuple(sorted({member for g in members_of(equation) for member in linked[g]}))
        linked.update(dict.fromkeys(together, together))
    linked_equations: dict[tuple[int, ...], list[E]] = {members: [] for members in linked.values()}
    for equation in equations:
        for g in members_of(equation)[:1]:
            linked_equations[linked[g]].append(equation)
    return list(linked_equations.items())


def members_of(equation: Equation) -> list[int]:
    """The groups in an equation, ascending."""
    return sorted({g for piece in equation.pieces for g in piece})


def differences(equations: Sequence[Equation], members: Sequence[int]) -> list[list[int]]:
    """Rows whose products with the widths of ``members`` are constants: first pieces less all others."""
    return [
        [equation.pieces[0].get(g, 0) - piece.get(g, 0) for g in members]
        for equation in equations
        for piece in equation.pieces[1:]
    ]


def moves(rows: Sequence[Sequence[int]]) -> list[Widths]:
    """Vectors by which solutions of ``rows @ widths == constant`` differ: short sums of a basis, both ways.

    The basis comes from column operations on ``rows`` (Hermite normal form; Cohen 1993, A Course in Computational
    Algebraic Number Theory, 2.4), so it spans every whole-number solution.
    """
    basis = _kernel([list(row) for row in rows])
    if len(basis) <= FEW:
        chosen = [c for c in product((-1, 0, 1), repeat=len(basis)) if any(c)]
        return [np.asarray(c, dtype=np.int64) @ np.stack(basis) for c in chosen]
    pairs = [a + s * b for i, a in enumerate(basis) for b in basis[:i] for s in (-1, 1)]
    return [s * v for v in [*basis, *pairs] for s in (-1, 1)]


def _kernel(rows: list[list[int]]) -> list[Widths]:
    count = len(rows[0]) if rows else 0
    columns = [([row[j] for row in rows], [int(i == j) for i in range(count)]) for j in range(count)]
    pivot_count = 0
    for i in range(len(rows)):
        while True:
            live = [j for j in range(pivot_count, count) if columns[j][0][i]]
            if len(live) < 2:
                break
            pivot = min(live, key=lambda j: abs(columns[j][0][i]))
            for j in live:
                if j != pivot:
                    times = columns[j][0][i] // columns[pivot][0][i]
                    for part, base in zip(columns[j], columns[pivot], strict=True):
                        part[:] = [a - times * b for a, b in zip(part, base, strict=True)]
        if live:
            columns[pivot_count], columns[live[0]] = columns[live[0]], columns[pivot_count]
            pivot_count += 1
    return [np.array(solution, dtype=np.int64) for _, solution in columns[pivot_count:]]


def descend(
    widths: Widths, lower_bound: Widths, dense: Widths, steps: Sequence[Widths], fits: Callable[[Widths], bool]
) -> Widths:
    """The solution that short moves reach from ``widths`` with the smallest sum of shares of dense widths.

    No width falls below ``lower_bound`` or rises above ``dense``; ``fits`` checks the other limits (rounding).
    """
    widths = widths.copy()
    while True:
        candidates = [w for step in steps if (w := _furthest(widths, step, lower_bound, dense, fits)) is not None]
        if not candidates:
            return widths
        widths = min(candidates, key=lambda w: float((w / dense).sum()))


def _furthest(
    widths: Widths, step: Widths, lower_bound: Widths, dense: Widths, fits: Callable[[Widths], bool]
) -> Widths | None:
    if float((step / dense).sum()) <= 0:
        return None
    down, up = step > 0, step < 0
    step_limit = min(
        [*((widths - lower_bound)[down] // step[down]).tolist(), *((dense - widths)[up] // -step[up]).tolist()],
        default=0,
    )
    return next((w for times in range(int(step_limit), 0, -1) if fits(w := widths - times * step)), None)
