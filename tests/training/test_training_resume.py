"""Killed with SIGKILL at any moment, a run goes on to the bytes of one that was never stopped."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from reconvene.errors import TrainingError
from reconvene.training import TrainConfig, train_model
from support.paths import ROOT, TESTS
from support.training_checks import interrupt_at, same
from support.training_kills import CONFIG, EPOCHS, digits, net


@pytest.fixture(scope="module")
def scenarios(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    paths = [str(ROOT / "src"), str(TESTS), *sys.path]
    done = subprocess.run(
        [sys.executable, TESTS / "support" / "training_kills.py", tmp_path_factory.mktemp("kills")],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and SIGKILL")
def test_a_killed_run_ends_in_the_same_bytes_and_log(scenarios: list[dict[str, Any]]) -> None:
    whole, *killed = scenarios
    assert len(killed) >= 10
    for scenario in killed:
        assert scenario["kills"] >= 1, scenario["name"]
        assert scenario["sha256"] == whole["sha256"], scenario["name"]
        assert scenario["log"] == whole["log"], scenario["name"]
        assert scenario["files"] == ["checkpoint.safetensors", "final.safetensors", "train.jsonl"], scenario["name"]
    assert [record.get("epoch") for record in whole["log"]] == [None, *range(1, EPOCHS + 1)]


def test_ctrl_c_comes_through_and_leaves_a_checkpoint_to_go_on_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, whole, parts = digits(), net(), net()
    train_model(whole, data, epochs=EPOCHS, directory=tmp_path / "whole", config=CONFIG)
    with monkeypatch.context() as patch:
        interrupt_at(patch, 13)
        with pytest.raises(KeyboardInterrupt):
            train_model(parts, data, epochs=EPOCHS, directory=tmp_path / "parts", config=CONFIG)
    assert same(parts, net()), "an interrupted run leaves the caller's weights alone"
    result = train_model(parts, data, epochs=EPOCHS, directory=tmp_path / "parts", config=CONFIG)
    assert result.resumed_at == 13
    assert same(parts, whole)


def test_a_finished_run_returns_at_once_with_its_weights_and_numbers(tmp_path: Path) -> None:
    data, first, again = digits(), net(), net()
    one = train_model(first, data, epochs=1, directory=tmp_path, config=CONFIG)
    two = train_model(again, data, epochs=1, directory=tmp_path, config=CONFIG)
    assert same(first, again)
    assert (two.evaluation, two.records, two.resumed_at) == (one.evaluation, one.records, one.steps)
    assert train_model(again, data, epochs=1, directory=tmp_path, config=CONFIG).resumed_at == one.steps, (
        "trained weights too"
    )


def test_starting_over_forgets_the_checkpoint(tmp_path: Path) -> None:
    data, first, again = digits(), net(), net()
    train_model(first, data, epochs=1, directory=tmp_path, config=CONFIG)
    result = train_model(again, data, epochs=1, directory=tmp_path, config=CONFIG, resume=False)
    assert result.resumed_at == 0
    assert same(first, again)


def other_weights() -> nn.Module:
    model = net()
    with torch.no_grad():
        model[0].weight.mul_(1.5)
    return model


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": 3}, "epochs is 3 now and was 1"),
        ({"config": TrainConfig(seed=4, batch_size=48)}, "seed is 4 now and was 3"),
        ({"config": TrainConfig(seed=3, batch_size=32, lr=0.2)}, r"batch_size is 32 now and was 48; lr is 0\.2 now"),
        ({"model": other_weights()}, "weights is .{12}... now and was .{12}..."),
        ({"dataset": "as they are"}, r"mean is \[0\.0\] now and was None; std is \[1\.0\] now and was None"),
        ({"dataset": "other"}, "dataset is .* 240 train .* now and was .* 480 train"),
    ],
)
def test_the_checkpoint_of_another_run_says_what_differs(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    from reconvene.data import load_data

    train_model(net(), digits(), epochs=1, directory=tmp_path, config=CONFIG)
    before = (tmp_path / "checkpoint.safetensors").read_bytes()
    asked = {"model": net(), "dataset": digits(), "epochs": 1, "config": CONFIG, **change}
    if asked["dataset"] == "as they are":
        asked["dataset"] = replace(digits(), mean=(0.0,), std=(1.0,))
    if asked["dataset"] == "other":
        asked["dataset"] = load_data("digits", input_shape=(1, 8, 8), limit=240)
    model, dataset = asked.pop("model"), asked.pop("dataset")
    with pytest.raises(TrainingError, match=message) as error:
        train_model(model, dataset, directory=tmp_path, **asked)
    assert "resume=False" in str(error.value)
    assert (tmp_path / "checkpoint.safetensors").read_bytes() == before


@pytest.mark.parametrize("damage", ["truncated", "foreign", "newer", "header"])
def test_a_checkpoint_that_cannot_be_read_says_so(tmp_path: Path, damage: str) -> None:
    import safetensors.torch

    path = tmp_path / "checkpoint.safetensors"
    train_model(net(), digits(), epochs=1, directory=tmp_path, config=CONFIG)
    tensors = {"a": torch.zeros(2)}
    content, message = {
        "truncated": (path.read_bytes()[:-100], "damaged"),
        "foreign": (safetensors.torch.save(tensors), "not written by reconvene"),
        "newer": (safetensors.torch.save(tensors, {"reconvene": '{"format": 99}'}), "format 99, this version reads 1"),
        "header": (safetensors.torch.save(tensors, {"reconvene": '{"format": 1}'}), "header .* damaged"),
    }[damage]
    path.write_bytes(content)
    with pytest.raises(TrainingError, match=message):
        train_model(net(), digits(), epochs=1, directory=tmp_path, config=CONFIG)


def test_a_full_disk_is_said_and_leaves_the_previous_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, whole, parts = digits(), net(), net()
    train_model(whole, data, epochs=1, directory=tmp_path / "whole", config=CONFIG)
    calls, fsync = 0, os.fsync

    def full(descriptor: int) -> None:
        nonlocal calls
        calls += 1
        if calls > 11:
            raise OSError(28, "No space left on device")
        fsync(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(TrainingError, match="No space left on device"):
            train_model(parts, data, epochs=1, directory=tmp_path / "parts", config=CONFIG)
    assert not list((tmp_path / "parts").glob("*.new"))
    assert train_model(parts, data, epochs=1, directory=tmp_path / "parts", config=CONFIG).resumed_at > 0
    assert same(parts, whole)
