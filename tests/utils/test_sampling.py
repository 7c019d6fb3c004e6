"""A few examples stand for all of them, in whatever order they come."""

from __future__ import annotations

import numpy as np
import pytest

from reconvene.utils.sampling import spread_places, stays

ORDERS = {
    "sorted": np.repeat(np.arange(10), 400),
    "period": np.tile(np.arange(10), 400),
    "long period": np.tile(np.repeat(np.arange(10), 40), 10),
}


@pytest.mark.parametrize("order", list(ORDERS))
@pytest.mark.parametrize("most", [400, 512, 1333, 2000])
def test_every_class_is_among_few_examples_in_its_proportion(order: str, most: int) -> None:
    """A fixed step of 2 or 10 through the classes in turn took half of them, or one."""
    counts = np.bincount(ORDERS[order][spread_places(4000, most)], minlength=10)
    assert counts.sum() == most and counts.min() > 0.5 * most / 10 and counts.max() < 1.6 * most / 10


@pytest.mark.parametrize("order", list(ORDERS))
@pytest.mark.parametrize("halvings", [1, 2, 3, 4])
def test_halving_leaves_every_class(order: str, halvings: int) -> None:
    staying = stays(np.arange(4000), halvings)
    counts = np.bincount(ORDERS[order][staying], minlength=10)
    assert counts.sum() == 4000 >> halvings and counts.min() > 0.4 * counts.mean()
    assert not (staying & ~stays(np.arange(4000), halvings - 1)).any(), "what left does not come back"


def test_places_are_distinct_ascending_and_the_same_twice() -> None:
    for total in (1, 2, 3, 7, 100, 2**24 + 4):
        for most in (1, 2, 3, 64, 4096):
            places = spread_places(total, most)
            assert len(places) == min(total, most) and places[0] >= 0 and places[-1] < total
            assert (np.diff(places) > 0).all() and (places == spread_places(total, most)).all()
