"""Ratios in words."""

from __future__ import annotations

import pytest

from reconvene.utils.tables import faster, smaller, times


@pytest.mark.parametrize(
    ("ratio", "text"), [(2.0, "2.00x faster"), (1.0, "unchanged"), (0.998, "unchanged"), (0.5, "2.00x slower")]
)
def test_a_slow_down_is_called_one(ratio: float, text: str) -> None:
    assert times(ratio, "faster", "slower") == text


def test_cells_of_tables_call_it_one_too() -> None:
    assert (faster(3.08), faster(0.5)) == ("3.08x", "2.00x slower")
    assert (smaller(8, 4), smaller(4, 8), smaller(4, 4)) == ("2.00x", "2.00x larger", "unchanged")
    assert (smaller(4, 0), smaller(0, 4)) == ("to nothing", "from nothing")
