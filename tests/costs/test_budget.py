"""Budgets read as people write them, and refuse what cannot be read, saying how to write it."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconvene.costs import Budget
from reconvene.errors import BudgetError

DENSE = {"params": 1_000_000, "macs": 2_000_000_000, "size": 4_000_000, "peak_memory": 1_048_576}


@pytest.mark.parametrize(
    ("cost", "value", "limit"),
    [
        ("params", "16x", 62_500),
        ("params", "16.21x", 1_000_000 / 16.21),
        ("params", "16×", 62_500),
        ("params", " 16 X ", 62_500),
        ("params", 0.25, 250_000),
        ("params", "0.25", 250_000),
        ("params", "25%", 250_000),
        ("params", 1.0, 1_000_000),
        ("params", "1.5M", 1_500_000),
        ("params", "900k params", 900_000),
        ("params", "1e5", 100_000),
        ("params", 70_000, 70_000),
        ("params", "70000", 70_000),
        ("macs", "250MMACs", 250e6),
        ("macs", "250 M", 250e6),
        ("macs", "1.5GMACs", 1.5e9),
        ("size", "1MB", 1e6),
        ("size", "0.5 MiB", 2**19),
        ("peak_memory", "256KiB", 2**18),
        ("peak_memory", "256kb", 256e3),
        ("peak_memory", "4096", 4096),
        ("peak_memory", 4096, 4096),
    ],
)
def test_values_read_as_written(cost, value, limit):
    assert Budget(**{cost: value}).limits(DENSE) == {cost: pytest.approx(limit, rel=1e-12)}


@pytest.mark.parametrize(
    ("cost", "value"),
    [
        ("params", "sixteen"),
        ("params", "0.5x"),
        ("params", "0x"),
        ("params", ""),
        ("params", "-3M"),
        ("params", 0),
        ("params", -5),
        ("params", 0.0),
        ("params", 16.0),
        ("params", 1.0001),
        ("params", float("nan")),
        ("params", float("inf")),
        ("params", True),
        ("params", [1]),
        ("params", "120%"),
        ("params", "3KiB"),
        ("params", "1.5.2M"),
        ("macs", "250MFLOPs"),
        ("size", "1M"),
        ("size", "1Mb/s"),
        ("peak_memory", "256 K"),
        ("latency", 5),
        ("latency", "5"),
        ("latency", "5 minutes"),
    ],
)
def test_what_cannot_be_read_is_refused_with_the_way_to_write_it(cost, value):
    with pytest.raises(BudgetError, match="cannot be read") as caught:
        Budget(**{cost: value})
    assert cost in str(caught.value) and "16x" in str(caught.value)


def test_an_empty_budget_asks_for_nothing():
    with pytest.raises(BudgetError, match="asks for nothing"):
        Budget()


@pytest.mark.parametrize("value", ["5ms", "5000us", "5000 µs", "0.005s", "2x", 0.5])
def test_latency_is_read_but_needs_a_device_profile(value):
    budget = Budget(params="2x", latency=value)
    with pytest.raises(BudgetError, match="device profile"):
        budget.limits(DENSE)


def test_costs_without_a_model_are_named():
    with pytest.raises(BudgetError, match=r"peak_memory.*params, size"):
        Budget(peak_memory="2x").limits({"params": 1, "size": 1})


def test_prints_and_keeps_what_was_asked():
    budget = Budget(params="16x", peak_memory="256KiB", macs=0.25)
    assert str(budget) == "params 16x, macs 0.25 of dense, peak_memory 256KiB"
    assert Budget(**budget.asked) == budget


@given(st.floats(1, 1e6), st.sampled_from(list(DENSE)))
def test_times_smaller_and_share_agree(times, cost):
    by_times = Budget(**{cost: f"{times!r}x"}).limits(DENSE)[cost]
    by_share = Budget(**{cost: 1 / times}).limits(DENSE)[cost]
    assert math.isclose(by_times, by_share, rel_tol=1e-9) and by_times <= DENSE[cost]
