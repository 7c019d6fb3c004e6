"""What the evidence page says of results: ranks, intervals, paired differences, and nothing where nothing is known."""

from __future__ import annotations

import dataclasses
import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from reconvene.experiments.pages import write_pages
from reconvene.experiments.summary import Mean, summarise
from support.paths import BENCHMARKS

sys.path.insert(0, str(BENCHMARKS))
from pages.evaluator_ranks import interval, rho, verdicts
from pages.evidence import write_page
from pages.evidence_widths import _verdict

RUN = {"model": "vgg16_bn", "args": {"width": 0.25}, "data": "cifar10", "limit": 100, "epochs": 1, "train": {}}


def record(
    arm: str, seed: int, accuracy: float, *, budget: dict[str, str] | None = None, **options: Any
) -> dict[str, Any]:
    run = {**RUN, "arm": arm, "options": options, "seed": seed, "budget": budget or {}}
    return {
        "key": f"{arm}{seed}{options}{budget}",
        "run": run,
        "label": arm,
        "accuracy": accuracy,
        "loss": 2 - accuracy,
        "per_class": {"a": accuracy},
        "params": 10 if budget else 100,
        "macs": 20 if budget else 100,
        "size": 1024,
        "dense": {"params": 100, "macs": 100},
        "search": {"seconds": 1.0},
        "training": {"seconds": 1.0, "seconds_per_epoch": 1.0, "macs": 5.0},
        "latency": None,
        "curve": [accuracy],
        "seconds": 10.0,
        "machine": {"processor": "p"},
        "threads": 1,
        "libraries": {"torch": "2"},
        "commit": "c0ffee",
        "date": "2026-01-01T00:00:00",
    }


def write(file: Path, rows: list[dict[str, Any]]) -> None:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_networks_are_compared_by_the_headline_of_their_task(tmp_path: Path) -> None:
    rows = [record("dense", 0, 0.0), *(record("uniform", seed, 0.0, budget={"params": "2x"}) for seed in (0, 1))]
    for row, error in zip(rows, (0.5, 0.25, 0.75), strict=True):
        del row["accuracy"]
        row |= {"task": "regression", "mae": error, "per_class": {}, "assessment": {"corrupted": 3.0}}
    dense, uniform = summarise(rows)
    assert (dense.score_text, uniform.score_text) == ("0.5", "0.5 ± 0.35")
    better = dataclasses.replace(dense, label="better", score=Mean.of([0.125]))
    written = {path.name: path.read_text() for path in write_pages([dense, uniform, better], tmp_path)}
    assert "| mae |" in written["table.md"] and "mae %" not in written["table.md"]
    assert "The best: better, whole, mae 0.125." in written["index.html"]
    (plot,) = (text for name, text in written.items() if name.endswith("params.svg"))
    assert "test mae" in plot


def test_rank_correlation_by_hand() -> None:
    found = np.array([1.0, 2.0, 3.0, 4.0, 5.0])
    assert rho(np.exp(found), found) == pytest.approx(1.0)
    assert rho(-found, found) == pytest.approx(-1.0)
    assert rho(np.array([1.0, 3.0, 2.0, 4.0, 5.0]), found) == pytest.approx(1 - 6 * 2 / (5 * 24))
    assert rho(np.ones(5), found) is None and interval(np.ones(5), found) == (None, None)
    low, high = interval(np.array([1.0, 3.0, 2.0, 5.0, 4.0]), found)
    assert low is not None and high is not None and low < 0.8 < high <= 1


def test_an_evaluator_is_judged_by_what_training_lost(tmp_path: Path) -> None:
    losses = {"g0": 0.3, "g1": 0.2, "g2": 0.1, "g3": 0.0}
    rows = [record("dense", 0, 0.9), *(record("cut", 0, 0.9 - lost, group=g) for g, lost in losses.items())]
    # A seed of which a group is missing is not counted.
    rows += [record("dense", 1, 0.9), record("cut", 1, 0.1, group="g3")]
    write(tmp_path / "predict.jsonl", rows)
    name = {"model": "vgg16_bn", "args": {"width": 0.25}, "seed": 0, "criterion": "synflow"}
    scores = [
        {**name, "evaluator": "density", "loss": {"g0": 9.0, "g1": 5.0, "g2": 2.0, "g3": 1.0}},
        {**name, "evaluator": "ablation", "loss": {"g0": 1.0, "g1": 2.0, "g2": 3.0, "g3": 4.0}},
    ]
    write(tmp_path / "scores.jsonl", scores)
    found = {v.name: v for v in verdicts(tmp_path / "predict.jsonl", tmp_path / "scores.jsonl")}
    assert found["density of synflow"].rho == pytest.approx(1) and found["ablation of synflow"].rho == pytest.approx(-1)
    assert found["nearer to the input"].rho == pytest.approx(1)
    assert all(v.seeds == 1 and v.groups == 4 for v in found.values())


def test_a_verdict_is_no_stronger_than_its_seeds() -> None:
    assert _verdict([2.0, 2.1, 2.2]) == "better" and _verdict([-2.0, -2.1, -2.2]) == "worse"
    assert _verdict([0.2, 4.0, 5.0]) == "better on every seed"  # 3.1 +- 2.5 leaves room for zero
    assert _verdict([-0.2, 4.0, 5.0]) == "seeds disagree"
    assert _verdict([0.9, -0.9, 0.5]) == "within a point" and _verdict([0.0, 0.0]) == "the same"
    assert _verdict([3.0]) == "better, one seed"


def test_the_page_shows_differences_by_seed_and_the_runs_that_are_missing(tmp_path: Path) -> None:
    budget = {"params": "16.21x"}
    rows = [record("dense", seed, 0.9) for seed in (0, 1)]
    rows += [record("ours", 0, 0.80, budget=budget), record("ours", 1, 0.84, budget=budget)]
    rows += [record("uniform", 0, 0.77, budget=budget), record("uniform", 1, 0.82, budget=budget)]
    rows += [record("precrop", 0, 0.81, budget=budget), record("precrop", 1, 0.78, budget=budget)]
    write(tmp_path / "widths.jsonl", rows)
    page = tmp_path / "evidence.md"
    assert write_page(tmp_path, page, tier="small") and not write_page(tmp_path, page, tier="small", write=False)
    details = tmp_path / "evidence-details.md"
    text = details.read_text()
    assert "| params 16.21x | uniform | +2.5 ± 0.7 | 2 | better on every seed |" in text
    assert "| params 16.21x | precrop | +2.5 ± 4.9 | 2 | seeds disagree |" in text
    assert "| params 16.21x | dense | -8.0 ± 2.8 | 2 | worse on every seed |" in text
    assert "Prediction on resnet20" in text and "*Not measured yet.*" in text and "Widths at params 50x" in text
    assert all((tmp_path / name).exists() for name in re.findall(r"\]\((plots/[^)]*)\)", text))
    # Each arm at its own best rate: 0.80 at 0.2 against 0.77 at 0.1, not 0.80 against 0.71.
    accuracies = {("ours", 0.1): 0.75, ("ours", 0.2): 0.80, ("uniform", 0.1): 0.77, ("uniform", 0.2): 0.71}
    rates = []
    for (arm, rate), accuracy in accuracies.items():
        own = record(arm, 0, accuracy, budget=budget)
        rates.append({**own, "key": f"{arm}{rate}", "run": {**own["run"], "train": {"lr": rate}}})
    write(tmp_path / "rate.jsonl", rates)
    write_page(tmp_path, page, tier="small")
    text = details.read_text()
    assert "| ours | 75.0 | **80.0** |" in text and "| uniform | **77.0** | 71.0 |" in text
    assert "| uniform | +3.0 | 1 | better, one seed |" in text
    write(tmp_path / "widths.jsonl", rows[:-1])
    assert write_page(tmp_path, page, tier="small", write=False)


def headline_rows(ours: float, speedup: float) -> list[dict[str, Any]]:
    budget = {"params": "16.21x"}
    rows = [
        record("dense", 0, 0.9),
        record("unstructured", 0, 0.88, budget=budget),
        record("uniform", 0, 0.8, budget=budget),
    ]
    rows.append(
        {**record("ours", 0, ours, budget=budget), "latency": {"seconds": 0.1, "dense": 0.3, "speedup": speedup}}
    )
    return rows


def test_the_first_screen_says_whether_the_claim_holds(tmp_path: Path) -> None:
    page = tmp_path / "evidence.md"
    write_page(tmp_path, page, tier="small")
    assert "*Not measured yet.*" in page.read_text() and "Accuracies of the paper" in page.read_text()
    for ours, speedup, verdict in (
        (0.85, 3.0, "does not hold yet"),
        (0.876, 3.0, "holds"),
        (0.876, 1.5, "does not hold"),
    ):
        write(tmp_path / "headline_small.jsonl", headline_rows(ours, speedup))
        write_page(tmp_path, page, tier="small")
        text = page.read_text()
        assert f"**Here it {verdict}" in text and (tmp_path / "plots" / "headline.svg").exists()
    assert "0.4 points below the unstructured" in text and "7.6 points above that of uniform" in text
    write(tmp_path / "headline_paper.jsonl", headline_rows(0.9, 2.5))  # the whole network says more
    write_page(tmp_path, page, tier="small")
    assert "2.0 points above the unstructured" in page.read_text() and "level with the dense" in page.read_text()
