"""The harness is held to account: equal budgets, one initial network, masks that stay, all time counted, resumption."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import asdict, replace
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from filelock import FileLock, Timeout
from PIL import Image

from reconvene.costs import Budget, listed_costs
from reconvene.data import load_data
from reconvene.deploy import measure
from reconvene.devices import Predictor
from reconvene.devices.latency_cost import DeviceLatency
from reconvene.errors import ExperimentError, ModelError, UnknownNameError
from reconvene.experiments import ARMS, compare, make_experiment, read_experiment, read_results
from reconvene.experiments import search as nas_search
from reconvene.experiments.budget_use import BudgetUse
from reconvene.experiments.config import Run
from reconvene.experiments.context import Setting
from reconvene.experiments.masked import put_on, take_off
from reconvene.experiments.methods import arm_named
from reconvene.experiments.pages import write_pages
from reconvene.experiments.results import append_result
from reconvene.experiments.search import KNOWN
from reconvene.experiments.summary import Mean, summarise
from reconvene.experiments.worker import execute_run
from reconvene.models import example_inputs, resolve_address
from reconvene.structure import analyse
from reconvene.tasks import task_named
from reconvene.training import TrainConfig, train_model
from reconvene.training.checkpoint import sha256
from reconvene.training.run import TrainingRun
from reconvene.utils.locks import alone_in
from reconvene.utils.progress import notes_to
from support import device_fakes
from support.segments import discs

DATA = {"name": "digits", "spec": "digits", "limit": 128}
RECIPE = {"batch_size": 32, "precision": "fp32"}
KEPT = {"rectify": "keep"}
STRUCTURED = ["ours", "resilient", "uniform", "random", "precrop", "precrop_filled", "channels"]
SMALL_SEARCH = {"population": 4, "generations": 2, "proxy_images": 60}


@pytest.fixture(scope="module")
def digits():
    return load_data("digits", limit=128)


def setting(arm: str, folder: Path, dataset, *, budget: dict[str, Any] | None = None, **options: Any) -> Setting:
    source = resolve_address("resnet20", {"width": 0.5}, seed=3)
    usual = SMALL_SEARCH if arm == "nas" else {}
    return Setting(
        model=source.build(),
        inputs=example_inputs((3, 32, 32), seed=3),
        dataset=dataset,
        budget=Budget(**(budget or {"params": "4x"})),
        options={**ARMS[arm].options, **usual, **options},
        seed=3,
        epochs=2,
        config=TrainConfig(seed=3, **RECIPE),
        round_to=8,
        folder=folder,
    )


def experiment(**changes: Any) -> dict[str, Any]:
    return {
        "epochs": 1,
        "latency": False,
        "train": RECIPE,
        "models": [{"model": "resnet20", "args": {"width": 0.25}}],
        "data": [DATA],
        "budgets": [{"params": "3x"}],
        "arms": [{"arm": "ours"}],
        **changes,
    }


@pytest.mark.parametrize("budget", [{"params": "4x"}, {"macs": "4x"}, {"params": "6x", "macs": "3x"}], ids=str)
@pytest.mark.parametrize("arm", STRUCTURED)
def test_equal_budgets_are_really_equal(arm: str, budget: dict[str, Any], tmp_path: Path, digits) -> None:
    """No arm exceeds its budget, and none leaves a tenth of the one that binds it unused.

    But for uniform widths, whose next step widens every layer at once.
    """
    ready = ARMS[arm].prepare(setting(arm, tmp_path, digits, budget=budget))
    whole = measure(resolve_address("resnet20", {"width": 0.5}).build(), example_inputs((3, 32, 32)), latency=False)
    own = measure(ready.model, example_inputs((3, 32, 32)), latency=False)
    used = []
    for cost in budget:
        limit = getattr(whole, cost) / float(str(budget[cost]).rstrip("x"))
        used.append(getattr(own, cost) / limit)
    assert max(used) <= 1
    assert max(used) > (0.8 if arm == "uniform" else 0.9)


@pytest.mark.parametrize("arm", [*STRUCTURED, "torch_pruning"])
def test_every_arm_keeps_the_seconds_that_one_device_is_predicted_to_take(arm: str, tmp_path: Path, digits) -> None:
    at = setting(arm, tmp_path, digits, budget={"latency": "2x"})
    structure, profile = device_fakes.of(at.model, at.inputs)
    at = replace(at, costs={**listed_costs(), "latency": DeviceLatency(profile)})
    if arm == "torch_pruning":
        pytest.importorskip("torch_pruning")
    small = analyse(ARMS[arm].prepare(at).model, at.inputs)
    allowed = Predictor(structure, profile).floor(structure.widths) / 2
    assert 0.8 * allowed < Predictor(small, profile).floor(small.widths) <= allowed


def test_the_densest_layers_of_a_mask_stay_whole_and_keep_their_weights(tmp_path: Path, digits) -> None:
    at = setting("resilient", tmp_path, digits, budget={"params": "2x"})
    ready = ARMS["resilient"].prepare(at)
    assert ready.plan is not None
    shares = {row.name: row.width / row.dense for row in ready.plan.rows}
    cut = {name for name, share in shares.items() if share < 1}
    assert 0 < len(cut) < len(shares) and min(shares.values()) >= 0.125
    dense, small = at.model.state_dict(), ready.model.state_dict()
    same = [name for name, weight in dense.items() if weight.ndim == 4 and torch.equal(weight, small[name])]
    changed = [name for name, weight in dense.items() if weight.ndim == 4 and weight.shape != small[name].shape]
    assert same and changed and not set(same) & set(changed)


def test_uniform_widths_are_uniform(tmp_path: Path, digits) -> None:
    plan = ARMS["uniform"].prepare(setting("uniform", tmp_path, digits)).plan
    assert plan is not None
    shares = [row.width / row.dense for row in plan.rows]
    assert max(abs(share - min(shares)) * row.dense for share, row in zip(shares, plan.rows, strict=True)) <= 1


def test_masks_leave_exactly_the_parameters_that_the_budget_allows(tmp_path: Path, digits) -> None:
    at = setting("unstructured", tmp_path, digits, budget={"params": "8x"})
    total = sum(p.numel() for p in at.model.parameters())
    model = take_off(ARMS["unstructured"].prepare(at).model)
    zero = sum(int((p == 0).sum()) for name, p in model.named_parameters() if p.ndim >= 2)
    assert total - zero == pytest.approx(total / 8, abs=1)


def test_masks_are_kept_during_training(tmp_path: Path, digits) -> None:
    at = setting("unstructured", tmp_path, digits, budget={"params": "4x"})
    model = ARMS["unstructured"].prepare(at).model
    before = {name: p.detach().clone() for name, p in model.named_parameters() if name.endswith("original")}
    train_model(model, digits, epochs=1, directory=tmp_path, config=at.config)
    originals = dict(model.named_parameters())
    assert before and all((originals[name][start == 0] == 0).all() for name, start in before.items())
    moved = sum(int((originals[name] != start).sum()) for name, start in before.items())
    assert moved > 0
    plain = take_off(model)
    names = set(resolve_address("resnet20", {"width": 0.5}).build().state_dict())
    assert set(plain.state_dict()) == names
    for name, start in before.items():
        weight = plain.get_parameter(name.replace("parametrizations.", "").removesuffix(".original"))
        assert torch.equal(weight == 0, start == 0)


def test_a_mask_that_fits_nothing_is_refused() -> None:
    with pytest.raises(ModelError, match="fits no parameter"):
        put_on(torch.nn.Sequential(torch.nn.Linear(2, 2)), {"0.weight": torch.ones(3, 2, dtype=torch.bool)})


def test_every_arm_starts_from_the_same_network(tmp_path: Path, digits) -> None:
    """What an arm does not touch is, bit for bit, what the dense network of that seed holds."""
    dense = resolve_address("resnet20", {"width": 0.5}, seed=3).build()
    ready = {
        arm: ARMS[arm].prepare(setting(arm, tmp_path / arm, digits, **options))
        for arm, options in {"dense": {}, "unstructured": {}, **dict.fromkeys(("uniform", "ours"), KEPT)}.items()
    }
    assert sha256(ready["dense"].model.state_dict()) == sha256(dense.state_dict())
    plain = take_off(ready["unstructured"].model).state_dict()
    assert all(torch.equal(v, dense.state_dict()[k] * (v != 0)) for k, v in plain.items() if v.ndim >= 2)
    for arm in ("uniform", "ours"):
        plan = ready[arm].plan
        assert plan is not None and any(row.width < row.dense for row in plan.rows)
        assert sha256(ready[arm].model.state_dict()) == sha256(plan.apply(dense).state_dict())


def test_a_run_says_what_it_started_from_and_what_it_took(tmp_path: Path) -> None:
    runs = make_experiment(experiment(corruptions=True, arms=[{"arm": "dense"}, {"arm": "uniform"}])).runs
    records = []
    for run in runs:
        (tmp_path / run.key).mkdir()
        records.append(execute_run(run, tmp_path / run.key, data="digits"))
    dense, uniform = records
    assert dense["params"] == dense["dense"]["params"] == uniform["dense"]["params"]
    assert uniform["params"] <= dense["params"] / 3
    assert dense["dataset_sha256"] == uniform["dataset_sha256"]
    assert dense["recipe"] == uniform["recipe"]
    assert dense["search"]["seconds"] == 0 < uniform["search"]["seconds"]
    assert uniform["search"]["seconds"] == pytest.approx(sum(uniform["search"]["steps"].values()))
    assert uniform["training"]["macs"] < dense["training"]["macs"]
    assert len(dense["curve"]) == 1 and dense["curve"][-1] == dense["accuracy"]
    faster = [{**r, "run": {**r["run"], "train": {**r["run"]["train"], "lr": 0.2}}} for r in records]
    labels = [line.label for line in summarise(records + faster)]
    assert labels == ["dense", "dense, lr 0.2", "uniform", "uniform, lr 0.2"], "recipes are not averaged over"
    longer = [{**r, "run": {**r["run"], "epochs": 2, "limit": None}} for r in records]
    labels = [line.label for line in summarise(records + longer)]
    assert labels == [
        "dense, epochs 1, limit 128",
        "dense, epochs 2",
        "uniform, epochs 1, limit 128",
        "uniform, epochs 2",
    ]
    whole, small = summarise(records)
    assert whole.label == "dense" and "agreement" not in whole.extra
    assert whole.used is None and small.used == BudgetUse(3 * uniform["params"] / dense["params"], "params")
    assert 0 <= small.extra["agreement"].value <= 100 and "worst drop" in small.extra
    assert small.extra["corrupted"].value == pytest.approx(100 * uniform["assessment"]["corrupted"])
    written = {path.name: path.read_text() for path in write_pages([whole, small], tmp_path / "pages")}
    assert f"| params 3x | uniform | {small.score_text} |" in written["table.md"]
    assert "| accuracy % |" in written["table.md"] and "agreement %" in written["table.md"]
    page = written["index.html"]
    assert "uniform" in page and small.score_text in page and page.count("<svg xmlns") == 2 and "src=" not in page
    plots = [text for name, text in written.items() if name.endswith(".svg")]
    assert len(plots) == 2 and all(text.count("<title>") == 3 for text in plots)  # no latency was measured
    assert dense["libraries"]["torch"] and dense["machine"] and dense["date"]


def test_data_of_another_task_are_compared_by_its_headline(tmp_path: Path) -> None:
    discs_of = discs(60, "segmentation")
    for number, (image, mask) in enumerate(zip(discs_of.train.images, discs_of.train.targets, strict=True)):
        for folder, pixels in (("images", image[0]), ("masks", mask)):
            (tmp_path / "discs" / folder).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.numpy().astype(np.uint8)).save(tmp_path / "discs" / folder / f"{number}.png")
    data = [{"name": "discs", "spec": str(tmp_path / "discs"), "task": "segmentation"}]
    models = [{"model": "unet", "args": {"width": 0.125}, "input": [3, 32, 32]}]
    asked = make_experiment(experiment(data=data, models=models))
    record = execute_run(asked.runs[0], tmp_path / "run", data=asked.sources["discs"])
    assert record["task"] == record["run"]["task"] == "segmentation" and 0 <= record["dice"] <= 1
    assert record["params"] <= record["dense"]["params"] / 3
    assert replace(asked.runs[0], task="instances").key != record["key"]


def test_the_time_of_a_search_is_counted_and_survives_an_interruption(tmp_path: Path, digits) -> None:
    at = setting("nas", tmp_path, digits)
    start = time.perf_counter()
    first = ARMS["nas"].prepare(at)
    wall = time.perf_counter() - start
    known = [json.loads(line) for line in (tmp_path / KNOWN).read_text().splitlines()]
    trained = sum(entry["seconds"] for entry in known)
    assert first.facts["candidates"] == len(known) <= SMALL_SEARCH["population"] * SMALL_SEARCH["generations"]
    assert first.seconds["search"] == pytest.approx(trained)
    whole = measure(resolve_address("resnet20", {"width": 0.5}).build(), example_inputs((3, 32, 32)), latency=False)
    own = measure(first.model, example_inputs((3, 32, 32)), latency=False)
    assert 0.9 * whole.params / 4 < own.params <= whole.params / 4
    assert 0.5 * wall < sum(first.seconds.values()) <= 1.5 * wall
    # Stopped after three candidates, in the middle of a line: the same network, no candidate trained twice.
    lines = (tmp_path / KNOWN).read_text().splitlines(keepends=True)
    (tmp_path / KNOWN).write_text("".join(lines[:3]) + lines[3][:10])
    again = ARMS["nas"].prepare(setting("nas", tmp_path, digits))
    assert sha256(again.model.state_dict()) == sha256(first.model.state_dict())
    after = [json.loads(line) for line in (tmp_path / KNOWN).read_text().splitlines()]
    assert after[:3] == known[:3]
    assert [entry["widths"] for entry in after] == [entry["widths"] for entry in known]
    assert again.seconds["search"] == pytest.approx(sum(entry["seconds"] for entry in after))


def test_a_search_takes_the_least_error_where_smaller_is_better(
    tmp_path: Path, digits, monkeypatch: pytest.MonkeyPatch
) -> None:
    errors = iter([3.0, 1.0, 2.0, 4.0])
    monkeypatch.setattr(nas_search, "train_model", lambda *_, **__: SimpleNamespace(score=next(errors)))
    values = replace(digits, task=task_named("regression"))
    found = ARMS["nas"].prepare(setting("nas", tmp_path, values, population=4, generations=1))
    assert found.facts["proxy_fitness"] == -1.0


def test_pruning_after_training_pays_for_its_dense_part(tmp_path: Path, digits) -> None:
    pytest.importorskip("torch_pruning")
    at = setting("torch_pruning", tmp_path, digits)
    ready = ARMS["torch_pruning"].prepare(at)
    whole = measure(resolve_address("resnet20", {"width": 0.5}).build(), at.inputs, latency=False)
    own = measure(ready.model, at.inputs, latency=False)
    assert 0.9 * whole.params / 4 < own.params <= whole.params / 4
    assert ready.epochs + ready.earlier["epochs"] == at.epochs
    assert ready.earlier["macs"] == whole.macs and ready.earlier["seconds"] > 0
    # Started again, it finds its dense network trained: the same network, and no second training.
    again = ARMS["torch_pruning"].prepare(setting("torch_pruning", tmp_path, digits))
    assert sha256(again.model.state_dict()) == sha256(ready.model.state_dict())
    assert again.earlier == ready.earlier


def test_trained_arms_share_their_dense_network_and_pay_for_it(tmp_path: Path, digits) -> None:
    ready = {}
    for name, options in (("taylor", {}), ("random", {"criterion": "random"}), ("scratch", {"scratch": True})):
        at = setting("trained", tmp_path / name, digits, **options)
        ready[name] = ARMS["trained"].prepare(at)
        own = measure(ready[name].model, at.inputs, latency=False)
        assert own.params <= measure(at.model, at.inputs, latency=False).params / 4
    assert len(list((tmp_path / "shared").iterdir())) == 1
    for name in ("taylor", "random"):
        assert ready[name].epochs == ready[name].earlier["epochs"] == 1 and ready[name].config.tail == 1.0
        assert ready[name].distillation is not None and ready[name].earlier["seconds"] > 0
    assert ready["scratch"].epochs == 2 and not ready["scratch"].earlier and ready["scratch"].config is None
    assert ready["taylor"].plan.widths.tolist() == ready["scratch"].plan.widths.tolist()


def test_the_search_never_sees_a_test_image(tmp_path: Path, digits) -> None:
    blank = replace(digits, test=replace(digits.test, images=torch.zeros_like(digits.test.images)))
    networks = []
    for name, images in (("seen", digits), ("blank", blank)):
        (tmp_path / name).mkdir()
        networks.append(ARMS["nas"].prepare(setting("nas", tmp_path / name, images, generations=1)).model)
    assert sha256(networks[0].state_dict()) == sha256(networks[1].state_dict())


def test_interrupted_and_resumed_results_are_identical(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped in its third epoch and started again, a run ends with the numbers of one that never stopped."""
    (run,) = make_experiment(experiment(epochs=4, arms=[{"arm": "unstructured"}])).runs
    for name in ("whole", "parts"):
        (tmp_path / name).mkdir()
    whole = execute_run(run, tmp_path / "whole", data="digits")
    step, steps = TrainingRun._step, []

    def stop(self: Any, x: Any, y: Any) -> Any:
        steps.append(1)
        if len(steps) > 10:
            raise KeyboardInterrupt
        return step(self, x, y)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("reconvene.training.run.TrainingRun._step", stop)
        execute_run(run, tmp_path / "parts", data="digits")
    resumed = execute_run(run, tmp_path / "parts", data="digits")
    assert _stable(resumed) == _stable(whole)
    # It did go on: the epochs that were done had their lines already, with the seconds they took then.
    assert len(resumed["curve"]) == 4


def test_an_experiment_stops_in_time_and_keeps_what_it_has(tmp_path: Path) -> None:
    asked = make_experiment(experiment(epochs=50))
    said: list[str] = []
    with notes_to(said.append):
        outcome = compare(asked, tmp_path / "r.jsonl", tmp_path / "work", seconds=0.5)
    assert outcome.left == 1 and not outcome.failed and not outcome.records
    assert "to be continued" in said[0]
    assert (tmp_path / "work" / asked.runs[0].key / "run.json").exists()


def _stable(record: dict[str, Any]) -> dict[str, Any]:
    names = ("key", "accuracy", "loss", "train_loss", "per_class", "curve", "widths", "params", "initial_sha256")
    return {name: record[name] for name in names}


def test_a_finished_experiment_does_nothing_and_a_failing_run_loses_only_itself(tmp_path: Path) -> None:
    arms = [{"arm": "cut", "group": "nowhere"}, {"arm": "dense"}]
    said: list[str] = []
    asked = make_experiment(experiment(arms=arms))
    with notes_to(said.append):
        outcome = compare(asked, tmp_path / "r.jsonl", tmp_path / "work")
    assert [record["run"]["arm"] for record in outcome.records] == ["dense"]
    assert outcome.left == 1
    (trouble,) = outcome.failed.values()
    assert "nowhere" in trouble and "stem.0" in trouble
    assert len(said) == 2 and "left" in said[0]
    before = (tmp_path / "r.jsonl").read_bytes()
    done = make_experiment(experiment(arms=[{"arm": "dense"}]))
    with notes_to(said.append):
        assert compare(done, tmp_path / "r.jsonl", tmp_path / "work").left == 0
    assert (tmp_path / "r.jsonl").read_bytes() == before and len(said) == 2


def test_no_folder_of_unfinished_runs_is_left_where_none_is(tmp_path: Path) -> None:
    compare(make_experiment(experiment(arms=[{"arm": "dense"}])), tmp_path / "r.jsonl", tmp_path / "unfinished")
    assert [path.name for path in tmp_path.iterdir()] == ["r.jsonl"]


def test_two_calls_do_not_share_a_folder_and_words_that_fit_nothing_are_named(tmp_path: Path) -> None:
    asked = make_experiment(experiment())
    (tmp_path / "unfinished").mkdir()
    folder = tmp_path / "unfinished"
    with alone_in(folder, error=ExperimentError), pytest.raises(ExperimentError, match="another process is at work in"):
        compare(asked, tmp_path / "r.jsonl", tmp_path / "unfinished")
    with pytest.raises(ExperimentError, match="no run has 'unifrom'"):
        compare(asked, tmp_path / "r.jsonl", tmp_path / "unfinished", only=["unifrom"])
    assert not (tmp_path / "r.jsonl").exists()


def test_a_run_does_not_outlive_what_asked_for_it(tmp_path: Path) -> None:
    """Killed outright, a comparison leaves no process behind that would share its folder with the next call's."""
    run = make_experiment(experiment(epochs=200)).runs[0]
    (tmp_path / "run.json").write_text(json.dumps({"run": asdict(run), "data": "digits"}))
    single = ["-m", "reconvene.experiments.worker", str(tmp_path)]
    asks = f"import os, subprocess, sys; subprocess.run([sys.executable, *{single}, str(os.getpid())])"
    asker = subprocess.Popen([sys.executable, "-c", asks], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    lock = FileLock(tmp_path / ".lock")
    until = time.monotonic() + 60
    while not (tmp_path / "train").exists():  # it is at work
        assert time.monotonic() < until
        time.sleep(0.2)
    with pytest.raises(Timeout):
        lock.acquire(timeout=0)
    asker.kill()
    asker.wait()
    lock.acquire(timeout=30)  # held by the run as long as it lives
    lock.release()
    assert not (tmp_path / "result.json").exists()


def test_results_survive_a_line_cut_short(tmp_path: Path) -> None:
    file = tmp_path / "r.jsonl"
    append_result(file, {"key": "a"})
    with file.open("a") as out:
        out.write('{"key": "b"')
    assert [r["key"] for r in read_results(file)] == ["a"]
    append_result(file, {"key": "c"})
    assert [r["key"] for r in read_results(file)] == ["a", "c"]
    file.write_bytes(file.read_bytes().rstrip(b"\n"))  # all of a record is there but its end
    append_result(file, {"key": "d"})
    assert [r["key"] for r in read_results(file)] == ["a", "c", "d"]
    file.write_text('{"key": "a"\n{"key": "b"}\n')
    with pytest.raises(ExperimentError, match="line 1"):
        read_results(file)


def test_an_experiment_is_the_product_of_what_it_names(tmp_path: Path) -> None:
    asked = experiment(
        seeds=[0, 1],
        budgets=[{"params": "3x"}, {"macs": "2x"}],
        arms=[{"arm": "dense"}, {"arm": "ours", "evaluator": ["fan_in", "density"]}, {"arm": "unstructured"}],
    )
    runs = make_experiment(asked).runs
    # dense has no budget; masks keep no MACs
    assert len(runs) == 2 * (1 + 2 * 2 + 1)
    assert len({run.key for run in runs}) == len(runs)
    # A run keeps its name when a choice is added later that it leaves as usual; any other value is another run.
    older = {key: value for key, value in runs[0].__dict__.items() if key not in ("corruptions", "round_to")}
    assert Run.from_dict(older).key == runs[0].key != replace(runs[0], round_to=4).key
    timed = make_experiment(experiment(budgets=[{"latency": "2x"}], arms=[{"arm": "ours"}, {"arm": "uniform"}])).runs
    assert [run.arm for run in timed] == ["ours", "uniform"]
    masked = make_experiment(experiment(budgets=[{"latency": "2x"}], arms=[{"arm": "ours"}, {"arm": "unstructured"}]))
    assert [run.arm for run in masked.runs] == ["ours"]  # masks make nothing faster
    assert [run.seed for run in runs] == sorted(run.seed for run in runs)
    assert Run.from_dict(json.loads(json.dumps(runs[0].__dict__))) == runs[0]


def test_a_list_in_the_recipe_asks_for_every_value() -> None:
    arms = [{"arm": "ours"}, {"arm": "uniform"}]
    runs = make_experiment(experiment(train={**RECIPE, "lr": [0.05, 0.2]}, arms=arms)).runs
    assert [(run.train["lr"], run.arm) for run in runs] == list(product([0.05, 0.2], ["ours", "uniform"]))
    assert all({**run.train, "lr": 0} == {**RECIPE, "lr": 0} for run in runs)
    assert len({str(run) for run in runs}) == 4  # `--only` can pick one
    single = make_experiment(experiment(train={**RECIPE, "lr": 0.2}, arms=arms)).runs
    assert [run.key for run in single] == [run.key for run in runs if run.train["lr"] == 0.2]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"arms": []}, "arms"),
        ({"epoch": 3}, "epochs"),
        ({"train": {"lrr": 1}}, "lr"),
        ({"arms": [{"arm": "ours", "criterium": "snip"}]}, "criterion"),
        ({"budgets": []}, "budget"),
        ({"models": [{"args": {}}]}, "entry 1 of models: model is missing"),
        ({"seeds": 0}, "seeds: expected a list, got 0"),
        ({"seeds": [0, -1]}, "entry 2 of seeds: expected at least 0, got -1"),
        ({"seeds": [True]}, "entry 1 of seeds: expected a whole number, got true"),
        ({"arms": {"arm": "ours"}}, "each begins with"),
        ({"arms": ["ours"]}, "entry 1 of arms is not a table"),
        ({"arms": [{"arm": "our"}]}, "unknown arm 'our'. Did you mean 'ours'"),
        ({"arms": [{"arm": ["ours"]}]}, "unknown arm"),
        ({"arms": [{"arm": "ours", "criterion": 3}]}, "entry 1 of arms: criterion: expected text, got 3"),
        ({"arms": [{"arm": "ours", "criterion": ["snip", 3]}]}, "criterion: expected text, got 3"),
        ({"arms": [{"arm": "nas", "population": "8"}]}, "population: expected a whole number, got text '8'"),
        (
            {"models": [{"model": "vgg16_bn", "args": {"width": [0.25, 0.5]}}]},
            "entry 1 of models: args.width: expected .*, got a list of 2",
        ),
        ({"models": [{"model": "vgg16_bn", "args": {"width": float("inf")}}]}, "args.width inf is not finite"),
        (
            {"models": [{"model": "vgg16_bn", "input": "3x32"}, {"model": "vgg16_bn", "input": "x"}]},
            "not a shape such as",
        ),
        (
            {"models": [{"model": "vgg16_bn", "input": [3, 0, 32]}]},
            "entry 2 of entry 1 of models: input: expected at least 1, got 0",
        ),
        ({"models": "vgg16_bn"}, "models is a list of tables"),
        ({"data": [DATA, {**DATA, "limit": 64}]}, "two of data are called 'digits'"),
        ({"data": [{"name": "digits", "spec": 3}]}, "entry 1 of data: spec: expected text, got 3"),
        ({"data": [{**DATA, "limit": "many"}]}, "limit: expected a whole number, got text 'many'"),
        ({"epochs": "five"}, "epochs: expected a whole number, got text 'five'"),
        ({"epochs": 0}, "epochs: expected at least 1, got 0"),
        ({"latency": "yes"}, "latency: expected true or false, got text 'yes'"),
        ({"device": 3}, "device: expected text, got 3"),
        ({"budgets": [{"params": [1]}]}, "entry 1 of budgets: params=.1. cannot be read"),
        ({"budgets": [{}]}, "entry 1 of budgets has no budget"),
        ({"budgets": [{"parms": "2x"}]}, "no 'parms'. Did you mean 'params'"),
        ({"train": {"lr": "fast"}}, "train.lr: expected a number or 'auto', got text 'fast'"),
        ({"train": {"lr": [0.1, -1]}}, "lr -1 cannot be trained with: lr must be above 0"),
        ({"train": {"schedule": "linear"}}, "train.schedule: expected 'one-cycle' or 'multi-step', got text 'linear'"),
        ({"train": {"compile": 1}}, "train.compile: expected true or false, got 1"),
        ({"train": []}, "train is not a table"),
        ({"seeds": []}, "seeds is an empty list"),
        ({"train": {"lr": []}}, "train.lr is an empty list"),
        ({"arms": [{"arm": "dense"}, {"arm": "ours", "criterion": []}]}, "entry 2 of arms: criterion is an empty list"),
    ],
)
def test_what_an_experiment_cannot_say_is_refused_by_name(change: dict[str, Any], says: str) -> None:
    with pytest.raises(ExperimentError, match=says):
        make_experiment(experiment(**change))


def test_an_unknown_arm_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(UnknownNameError, match="uniform"):
        arm_named("unifrom")


def test_an_experiment_is_a_toml_file(tmp_path: Path) -> None:
    file = tmp_path / "e.toml"
    file.write_text(
        'epochs = 2\nseeds = [0, 1]\n[[models]]\nmodel = "resnet20"\n[[data]]\nname = "x"\nspec = "there"\n'
        '[[budgets]]\nparams = "4x"\n[[arms]]\narm = "uniform"\n'
    )
    found = read_experiment(file, sources={"x": "here"})
    assert found.name == "e" and len(found.runs) == 2 and found.sources == {"x": "here"}
    with pytest.raises(UnknownNameError, match="unknown data of the experiment 'y'"):
        read_experiment(file, sources={"y": "here"})
    file.write_text("epochs = ")
    with pytest.raises(ExperimentError, match=r"e.toml is not TOML"):
        read_experiment(file)


def test_means_and_spreads_by_hand() -> None:
    assert str(Mean.of([50.0])) == "50.0"
    assert Mean.of([49.0, 51.0, 53.0]) == Mean(51.0, 2.0, 3)
