"""Arms of few bits: they share the trained network, keep budgets on packed weights, and train with the roundings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from reconvene.errors import ExperimentError
from reconvene.experiments.config import Run
from reconvene.experiments.pages import tables
from reconvene.experiments.summary import summarise
from reconvene.experiments.worker import execute_run


def run(arm: str, budget: dict[str, Any], folder: Path, **options: Any) -> dict[str, Any]:
    request = Run(
        arm=arm,
        options={"tune": 3, **options},
        model="resnet8",
        args={"in_channels": 1, "width": 0.25},
        data="digits",
        limit=100,
        budget=budget,
        seed=0,
        train={"batch_size": 20},
        input=(1, 8, 8),
        epochs=4,
        latency=False,
    )
    return execute_run(request, folder, data="digits")


def test_all_ways_to_few_bits_stand_beside_each_other(tmp_path: Path) -> None:
    (tmp_path / "shared").mkdir()
    records = [
        run("uniform_bits", {}, tmp_path / "a", bits=2),
        run("pruned_then_quantised", {"size": "1.5kB"}, tmp_path / "b", bits=4),
        run("joint_bits", {"size": "1.5kB"}, tmp_path / "c"),
        run("searched_bits", {"size": "1.5kB"}, tmp_path / "d"),
    ]
    packed = [record["facts"]["packed"] for record in records]
    assert all(1000 < size <= 1500 for size in packed[1:]) and packed[0] > 1500
    assert "of 4" in records[1]["facts"]["bits"] and "of 2" not in records[1]["facts"]["bits"]
    assert all(0 <= record["accuracy"] <= 1 and len(record["curve"]) >= 1 for record in records)
    page = tables(summarise(records))
    assert "packed weights, kB" in page and "searched_bits" in page


def test_epochs_that_leave_none_for_the_dense_network_are_named(tmp_path: Path) -> None:
    with pytest.raises(ExperimentError, match="leave 0 for the dense network"):
        run("joint_bits", {"size": "1.5kB"}, tmp_path, tune=4)
