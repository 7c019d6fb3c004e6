"""The sweep's own judgement: what passes, what is refused, what is wrong or worse, and what the coverage page says."""

from __future__ import annotations

import datetime
import importlib
import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import reconvene as rc
from reconvene.errors import BudgetError
from support.paths import BENCHMARKS
from support.proof import both_signs

sys.path.insert(0, str(BENCHMARKS))
entry = importlib.import_module("architectures.entry")
proving = importlib.import_module("architectures.proving")
results = importlib.import_module("architectures.results")
stages = importlib.import_module("architectures.stages")
checked = importlib.import_module("architectures.checked")
rotation = importlib.import_module("architectures.rotation")
running = importlib.import_module("architectures.running")
architectures = importlib.import_module("architectures")
zoo = importlib.import_module("zoo")
coverage = importlib.import_module("pages.coverage")
speed = importlib.import_module("pages.speed")
rows = importlib.import_module("rows")

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


def test_a_network_that_is_not_listed_must_pass() -> None:
    refused = {"name": "own/net", "verdict": "refused (plan: why)"}
    assert results.worse(refused, {})
    assert not results.worse(refused, {"own/net": "refused"})
    assert not results.worse({"name": "own/net", "verdict": "passed"}, {"own/net": "failed"})
    assert results.worse({"name": "own/net", "verdict": "WRONG (x)"}, {"own/net": "failed"})


def test_results_are_known_for_one_engine_and_its_stages_and_survive_a_broken_run(tmp_path: Path) -> None:
    path = tmp_path / "zoo.jsonl"
    first = results.Results(path)
    first.add({"name": "own/b", "engine": "1", "asked": ["plan"], "stages": {}})
    first.add({"name": "own/a", "engine": "1", "asked": ["plan", "apply"], "stages": {}})
    first.add({"name": "own/old", "engine": "1", "verdict": "proved"})
    again = results.Results(path)
    assert again.has("own/a", engine="1", stages=["plan"]) and not again.has("own/a", engine="2", stages=["plan"])
    assert not again.has("own/b", engine="1", stages=["plan", "apply"])
    again.add({"name": "own/a", "engine": "2", "asked": ["plan"], "stages": {}})
    again.compact(["own/a", "own/b", "own/old"])
    assert [line.split('"')[3] for line in path.read_text().splitlines()] == ["own/a", "own/b"]
    assert results.Results(path).has("own/a", engine="2", stages=["plan"])


def swept(name: str, asked: str = "plan,apply,compare", **options: Any) -> dict[str, Any]:
    """The record of a network of the zoo after these stages."""
    told: list[dict[str, Any]] = []
    chosen = results.Options(stages=zoo.stages_of(asked), **options)
    return stages.sweep_architecture(architectures.all_architectures()[name], told.append, chosen)


@pytest.fixture
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Artifacts of the sweep name a builder in its folder."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))


@pytest.mark.usefixtures("importable")
def test_a_network_passes_every_stage() -> None:
    record = swept("own/conv1d_flatten", ",".join(results.STAGES))
    assert record["verdict"] == "passed", record
    assert list(record["stages"]) == list(results.STAGES)
    assert set(record["kept"]) == {"magnitude, params 2x", "synflow, macs 4x"}


def rolled(model: nn.Module) -> nn.Module:
    """The network with the channels of its first weight moved by one."""
    with torch.no_grad():
        first = next(model.parameters())
        first.copy_(first.roll(1, 0))
    return model


def test_a_small_network_that_computes_something_else_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    apply, plan = rc.Plan.apply, rc.plan
    wrong = lambda self, model: rolled(apply(self, model))  # noqa: E731

    def planned(*args: Any, **kwargs: Any) -> rc.Plan:
        with monkeypatch.context() as right:
            right.setattr(rc.Plan, "apply", apply)  # the plan itself is right: only what is made of it is not
            return plan(*args, **kwargs)

    monkeypatch.setattr(rc.Plan, "apply", wrong)
    monkeypatch.setattr(rc, "plan", planned)
    record = swept("own/conv1d_flatten")
    assert record["verdict"].startswith("WRONG (compare: magnitude, params 2x: the outputs differ by "), record


@pytest.mark.usefixtures("importable")
def test_a_loaded_network_with_other_weights_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    load = rc.load
    monkeypatch.setattr(rc, "load", lambda *args, **kwargs: rolled(load(*args, **kwargs)))
    assert swept("own/conv1d_flatten", "load")["verdict"].startswith("WRONG (load: ")


def test_a_lost_gradient_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    apply = rc.Plan.apply

    def detached(self: rc.Plan, model: nn.Module) -> nn.Module:
        small = apply(self, model)
        next(small.children()).register_forward_hook(lambda layer, args, output: output.detach())
        return small

    monkeypatch.setattr(rc.Plan, "apply", detached)
    assert "have no gradient, such as " in swept("own/conv1d_flatten", "train")["verdict"]


@pytest.mark.parametrize(
    ("trouble", "verdict"),
    [
        (BudgetError("below the floor"), "refused (plan: magnitude, params 2x: BudgetError: below the floor)"),
        (ValueError("zip"), "failed (plan: magnitude, params 2x: ValueError: zip ["),
    ],
)
def test_a_named_error_is_a_refusal_and_any_other_a_failure(
    monkeypatch: pytest.MonkeyPatch, trouble: Exception, verdict: str
) -> None:
    def refuse(*args: Any, **kwargs: Any) -> rc.Plan:
        raise trouble

    monkeypatch.setattr(rc, "plan", refuse)
    record = swept("own/conv1d_flatten", ",".join(results.STAGES))
    assert record["verdict"].startswith(verdict) and list(record["stages"]) == ["plan"]


def test_checks_of_values_run_and_leave_outputs_as_they_are() -> None:
    model, inputs = entry.fill(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))), torch.randn(2, 4)
    before = model(inputs)
    name = checked.check_values(model, inputs)
    assert name == "1" and torch.equal(model(inputs), before)
    with pytest.raises(ValueError, match="no number"):
        model(inputs * torch.nan)
    with pytest.raises(AssertionError):
        model(inputs + torch.inf)


def test_scales_of_both_signs() -> None:
    model = both_signs(entry.fill(nn.Sequential(nn.Conv2d(3, 32, 1), nn.BatchNorm2d(32))))
    for vector in (model[0].bias, model[1].weight, model[1].bias):
        assert 0.2 < float((vector < 0).float().mean()) < 0.8


def test_ten_days_in_a_row_take_every_network_of_the_rotation_once() -> None:
    names = [f"timm/net{number}" for number in range(437)]
    first = datetime.date(2026, 11, 28)
    days = [rotation.tenth(names, first + datetime.timedelta(n)) for n in range(10)]
    assert sorted(name for day in days for name in day) == sorted(names)
    assert {len(day) for day in days} == {43, 44}
    assert rotation.tenth(reversed(names), first) == days[0] == rotation.tenth(names, first + datetime.timedelta(10))


def test_the_rotation_adds_networks_that_no_other_sweep_has() -> None:
    pytest.importorskip("timm")
    every, others = set(architectures.all_architectures()), set(architectures.other_architectures())
    assert len(others) > 300 and not every & others
    drawn = set(zoo.chosen_names(None, "2026-11-28")) - every
    assert drawn == set(rotation.tenth(others, datetime.date(2026, 11, 28)))
    assert set(zoo.chosen_names(["timm/resnet18d"], "all")) <= others | every


def test_stages_bring_what_they_need() -> None:
    assert zoo.stages_of("plan") == ("plan",)
    assert zoo.stages_of("load,compare") == ("plan", "apply", "compare", "save", "load")
    with pytest.raises(zoo.argparse.ArgumentTypeError, match="no stage exprot"):
        zoo.stages_of("exprot")


def test_no_network_is_started_when_the_time_is_over() -> None:
    assert list(running.run_all(["own/unet"], running.Limits(total=-1), zoo.judge)) == []


def one(name: str, source: str, **facts: Any) -> dict[str, Any]:
    """A record as the sweep writes it, of a network that passed two stages."""
    done = {stage: {"state": "passed", "reason": "", "seconds": 0.5} for stage in ("plan", "apply")}
    common = {"commit": "abc", "machine": "a machine", "versions": {"torch": "2"}, "seconds": 1.0}
    record = {"name": name, "source": source, "stages": done, "verdict": "passed", "parameters": 10, **common}
    return {**record, "kept": {"magnitude, params 2x": 0.5}, "error_of_outputs": 1e-15, **facts}


def test_the_coverage_page_lists_every_network_and_every_exception() -> None:
    state = {"plan": {"state": "refused", "reason": "why", "seconds": 1.5}}
    records = [
        one("own/net", "own"),
        one("timm/odd", "timm", stages=state, verdict="refused (plan: BudgetError: a | b)", why="softmax [40%]"),
        one("timm/other", "timm"),
    ]
    text = coverage.page(records, [one("own/net", "own")], rotation=frozenset({"timm/other"}))
    assert "| **timm**: the smallest network of every timm family | 1 | 0 | 1 | 0 | 0 |" in text
    assert "| all | 3 | 2 | 1 | 0 | 0 |" in text
    assert "| plan | 2 | 1 | 0 | 0 | 0 | 0.50 | 1.40 | 1.50 | timm/odd |" in text
    assert "| timm/odd | refused | plan: BudgetError: a \\| b Pinned: softmax [40%] |" in text
    assert "| net | 10 | 50% | ✓ | ✓ |  |  |  |  |  |  | ✓ | 1e-15 | 1 |" in text
    assert "### timm, rotation" in text and "of 1 networks: 1 passed, 0 refused, 0 failed, 0 WRONG" in text


def test_the_plot_of_growth_is_well_formed() -> None:
    ET.fromstring(speed.chart(speed.grown(rows.read_rows(speed.SCALING))))
