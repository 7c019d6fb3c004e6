"""Which methods of a comparison keep their budget, by what was measured after training."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from reconvene.experiments.budget_use import BudgetUse, budget_use
from reconvene.experiments.pages import comparison
from reconvene.experiments.summary import ArmSummary, Mean, as_text, cells, header_of, over_budget
from reconvene.tasks import task_named


def record(budget: dict[str, Any], device: str | None = None, **measured: Any) -> dict[str, Any]:
    dense = {"params": 1000, "macs": 8000, "size": 4000, "peak_memory": 500}
    costs = {"params": 400, "macs": 2100, "size": 1600, "peak_memory": 500, "latency": None}
    return {**costs, "dense": dense, "run": {"budget": budget, "device": device}, "facts": {}, **measured}


TIMED = {"seconds": 1.2e-3, "dense": 2e-3, "speedup": 1.67}


@pytest.mark.parametrize(
    ("run", "use"),
    [
        (record({}), None),
        (record({"params": "2x"}), BudgetUse(0.8, "params")),
        (record({"params": "2x", "macs": "4x"}), BudgetUse(1.05, "macs")),
        (record({"params": 0.5}), BudgetUse(0.8, "params")),
        (record({"macs": 2100}), BudgetUse(1.0, "macs")),
        (record({"size": "2kB"}), BudgetUse(0.8, "size")),
        (record({"size": "2kB"}, facts={"packed": 900}), BudgetUse(0.45, "size")),
        (record({"latency": "2x"}), None),
        (record({"latency": "2x"}, latency=TIMED), BudgetUse(1.2, "latency")),
        (record({"latency": "1.5ms"}, "here", latency=TIMED), BudgetUse(0.8, "latency")),
        (record({"latency": "1.5ms"}, "pi4.json", latency=TIMED), None),
        (record({"cycles": "2x"}), None),
    ],
    ids=str,
)
def test_the_cost_nearest_to_its_limit_counts(run: dict[str, Any], use: BudgetUse | None) -> None:
    assert budget_use(run) == (use and BudgetUse(pytest.approx(use.share), use.cost))


def arm(label: str, share: float | None, budget: str = "latency 2x") -> ArmSummary:
    used = None if share is None else BudgetUse(share, "latency")
    return ArmSummary(
        "resnet20",
        "digits",
        budget,
        label,
        task_named("classification"),
        Mean.of([90.0]),
        params=0.5,
        macs=0.5,
        search=1.0,
        epoch=1.0,
        training_macs=1.0,
        latency=1e-3,
        speedup=0.8,
        extra={},
        packed=None,
        used=used,
        records=(),
    )


def test_methods_over_their_budget_are_named_in_tables_and_on_the_page() -> None:
    arms = [arm("dense", None, "whole"), arm("ours", 0.97), arm("uniform", 1.18), arm("random", 1.0004)]
    named = "Over their budget: uniform under latency 2x (118.0 % of latency)."
    assert over_budget(arms) == named and over_budget(arms[:2]) == ""
    column = header_of(arms).index("budget used")
    assert [cells(line)[column] for line in arms] == ["", "97.0 %", "118.0 % of latency", "100.0 %"]
    assert "118.0 % of latency" in as_text(arms)
    assert named in comparison(arms, {}) and "Over their budget" not in comparison(arms[:2], {})


def test_a_slow_down_is_called_one() -> None:
    assert cells(arm("uniform", 1.18))[-1] == "1.25x slower"
    assert cells(replace(arm("ours", 0.97), speedup=1.5))[-1] == "1.50x"
