"""The sweep's own judgement: what counts as proved, what counts as worse, and what the coverage page says."""

from __future__ import annotations

import importlib
import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
entry = importlib.import_module("architectures.entry")
proving = importlib.import_module("architectures.proving")
results = importlib.import_module("architectures.results")
zoo_table = importlib.import_module("zoo_table")
speed_table = importlib.import_module("speed_table")

PROVED: dict[str, Any] = {
    "name": "own/net", "source": "own", "replay": True, "train": True, "lossless_error": 1e-15, "tolerance": 2e-6,
    "kept": 0.3, "effect": 0.5, "why": "a reason", "parameters": 10, "groups": 2, "structure_cpu_seconds": 0.01,
    "commit": "abc", "machine": "a machine", "versions": {"torch": "2"},
}  # fmt: skip


def architecture(**facts: Any) -> Any:
    return entry.Architecture("own/net", lambda: (nn.Identity(), ()), **facts)


@pytest.mark.parametrize(
    ("change", "verdict"),
    [
        ({}, "proved"),
        ({"kept": 0.7}, "proved, little removable (a reason)"),
        ({"lossless_error": 1e-3}, "failed (lossless: off by 1.0e-03 relative)"),
        ({"lossless_error": float("nan")}, "failed (lossless: off by nan relative)"),
        ({"effect": 0.0}, "failed (lossless: silencing half of it changes nothing, so nothing is shown)"),
        ({"effect": 0.0, "kept": 1.0}, "proved, little removable (a reason)"),
        ({"replay": False, "replay_error": "it differs"}, "failed (replay: it differs)"),
        ({"train": False}, "failed (train: a gradient is missing or not finite)"),
        ({"error": "build: no"}, "failed (build: no)"),
    ],
)
def test_a_network_is_proved_only_by_every_part_of_the_proof(change: dict[str, Any], verdict: str) -> None:
    assert proving.verdict({**PROVED, **change}, architecture()) == verdict


def test_what_cannot_be_lossless_by_nature_says_so() -> None:
    record = {**PROVED, "lossless_error": 1e-3}
    assert proving.verdict(record, architecture(nature="weights")) == "not lossless by nature (weights)"


def test_a_model_that_is_not_listed_must_be_proved() -> None:
    little = {"name": "own/net", "verdict": "proved, little removable (why)"}
    assert results.worse(little, {})
    assert not results.worse(little, {"own/net": "proved, little removable"})
    assert not results.worse({"name": "own/net", "verdict": "proved"}, {"own/net": "failed"})
    assert results.worse({"name": "own/net", "verdict": "failed (x)"}, {"own/net": "proved, little removable"})


def test_results_are_known_for_one_engine_and_survive_a_broken_run(tmp_path: Path) -> None:
    path = tmp_path / "zoo.jsonl"
    first = results.Results(path)
    first.add({"name": "own/b", "engine": "1"})
    first.add({"name": "own/a", "engine": "1"})
    again = results.Results(path)
    assert again.has("own/a", engine="1") and not again.has("own/a", engine="2")
    again.add({"name": "own/a", "engine": "2"})
    again.compact(["own/a", "own/b"])
    assert [line.split('"')[3] for line in path.read_text().splitlines()] == ["own/a", "own/b"]
    assert results.Results(path).has("own/a", engine="2")


def test_the_coverage_page_lists_every_network_and_every_exception() -> None:
    records = [
        {**PROVED, "verdict": "proved"},
        {**PROVED, "name": "timm/odd", "source": "timm", "verdict": "failed (a | b)"},
    ]
    text = zoo_table.page(records)
    assert "| all | 2 | 1 | 0 | 0 | 1 |" in text
    assert "| timm/odd | failed | 30% | a \\| b |" in text
    assert "| own/net | 10 | 30% | 2 | 0.010 | 1e-15 | proved |" in text


def test_the_page_about_speed_is_the_one_that_the_results_give() -> None:
    scaling, rivals = speed_table.read(speed_table.SCALING), speed_table.read(speed_table.RIVALS)
    assert speed_table.PAGE.read_text(encoding="utf-8") == speed_table.page(scaling, rivals)
    assert speed_table.CHART.read_text(encoding="utf-8") == speed_table.chart(speed_table.grown(scaling))
    ET.fromstring(speed_table.chart(speed_table.grown(scaling)))
