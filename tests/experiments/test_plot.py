"""Plots of experiments and fleets."""

from __future__ import annotations

import re

import pytest

from reconvene.experiments.plot import Dot, scatter_svg


@pytest.mark.parametrize(
    ("xs", "marks"),
    [
        ((0.05, 1.0), {"0.05", "0.1", "0.5", "1"}),
        ((300, 4_000), {"500", "1000", "2000"}),
        ((40_000, 150_000), {"50 k", "100 k"}),
        ((8e6, 3e7), {"10 M", "20 M"}),
    ],
)
def test_marks_of_an_axis_are_read_without_exponents(xs: tuple[float, float], marks: set[str]) -> None:
    svg = scatter_svg("t", [Dot(x, float(i), "s", "") for i, x in enumerate(xs)], x="x", y="y")
    texts = set(re.findall(r'text-anchor="middle">([^<]*)<', svg))
    assert marks <= texts and not any("e+" in text for text in texts)
