"""Equations between widths are solved in whole numbers: nothing keeps more than it must."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reconvene.structure.groups import Balance
from reconvene.structure.lattice import differences, moves, systems
from reconvene.structure.pruned_sizes import settle


def balance(first: dict[int, int], second: dict[int, int], *fixed: int) -> Balance:
    return Balance((first, second), fixed or (0, 0), "a test")


UNEVEN = [balance({0: 1}, {1: 1}, 0, 2), balance({2: 22}, {0: 2, 1: 1})]
"""EdgeNeXt: three chunks of 88 channels, the last one shorter, and as many channels as four heads of 22."""


@pytest.mark.parametrize(
    ("least", "smallest"), [([1, 1, 1], [8, 6, 1]), ([9, 1, 1], [30, 28, 4]), ([8, 6, 1], [8, 6, 1])]
)
def test_a_smaller_solution_that_growing_runs_past_is_found(least: list[int], smallest: list[int]) -> None:
    assert settle(UNEVEN, np.array(least), np.array([30, 28, 4])).tolist() == smallest


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_settled_widths_hold_every_equation_and_are_the_smallest_along_one_line(data: st.DataObject) -> None:
    scale = data.draw(st.lists(st.integers(1, 6), min_size=2, max_size=3))
    dense = np.array([data.draw(st.integers(1, 5)) * int(np.lcm.reduce(scale)) // s for s in scale])
    whole = int(dense[0] * scale[0])
    dense = np.array([whole // s for s in scale if whole % s == 0])
    scale = [s for s in scale if whole % s == 0]
    equations = [balance({i: scale[i]}, {i + 1: scale[i + 1]}) for i in range(len(scale) - 1)]
    least = np.array([data.draw(st.integers(1, int(d))) for d in dense])
    found = settle(equations, least, dense)
    assert (found >= least).all() and (found <= dense).all()
    assert len({int(w * s) for w, s in zip(found, scale, strict=True)}) == 1
    totals = [
        t for t in range(1, whole + 1) if all(t % s == 0 and t // s >= m for s, m in zip(scale, least, strict=True))
    ]
    assert int(found[0] * scale[0]) == min(totals)


def test_systems_share_no_group_and_keep_the_order_of_their_equations() -> None:
    first, second, link = balance({0: 2}, {4: 1}), balance({1: 1}, {2: 3}), balance({2: 1, 4: 1}, {5: 1})
    assert systems([first, second], 6) == [((0, 4), [first]), ((1, 2), [second]), ((3,), []), ((5,), [])]
    assert systems([second, first, link], 6) == [((0, 1, 2, 4, 5), [second, first, link]), ((3,), [])]
    rows = np.array(differences([second, first, link], (0, 1, 2, 4, 5)))
    assert not (rows @ np.array([2, 3, 1, 4, 5])).any()
    assert rows @ np.array([2, 3, 1, 4, 6]) @ [0, 0, 1] == -1


def test_moves_span_all_differences_of_solutions() -> None:
    rows = [[19, 19, 19, -1], [1, 0, -1, 0]]
    solutions = [
        np.array(w)
        for w in itertools.product(range(4), range(4), range(4), range(0, 200))
        if not (np.array(rows) @ w).any()
    ]
    steps = {tuple(step) for step in moves(rows)}
    assert all(not (np.array(rows) @ np.array(step)).any() for step in steps)
    reached, frontier = {tuple(solutions[0])}, [tuple(solutions[0])]
    while frontier:
        here = frontier.pop()
        for step in steps:
            there = tuple(a + b for a, b in zip(here, step, strict=True))
            if there not in reached and all(0 <= x < limit for x, limit in zip(there, (4, 4, 4, 200), strict=True)):
                reached.add(there)
                frontier.append(there)
    assert reached == {tuple(w) for w in solutions}
