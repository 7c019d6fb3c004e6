"""A learning rate that is left to a range test: the same bits with every seed, whenever the test was killed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from reconvene import artifact
from reconvene.data import load_data
from reconvene.errors import ExperimentError, TrainingError
from reconvene.experiments import make_experiment
from reconvene.models import resolve_address
from reconvene.training import TrainConfig, rate_test, train_model
from reconvene.training.rate_test import RangeTest, choose_rate, has_turned, rate_of_step
from reconvene.workflow.train import train as train_artifact
from support.training_checks import interrupt_at, same
from support.training_kills import CONFIG, digits, net

AUTO = replace(CONFIG, lr="auto", checkpoint_seconds=0.0)


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rate_test, "_STEPS", 60)


def test_the_found_rate_trains_as_the_same_rate_given_does(tmp_path: Path) -> None:
    data, found, given = digits(), net(), net()
    result = train_model(found, data, epochs=1, directory=tmp_path / "found", config=AUTO)
    test = result.rate_test
    assert test is not None and 1e-3 <= test.rate <= 6 and 10 < len(test.rates) == len(test.losses) <= 60
    assert f"{test.seconds:.1f} s of a range test for the learning rate {test.rate:.3g}" in str(result)
    assert result.records[0]["config"]["lr"] == test.rate
    again = train_model(given, data, epochs=1, directory=tmp_path / "given", config=replace(CONFIG, lr=test.rate))
    assert again.rate_test is None and same(found, given)
    assert sorted(path.name for path in (tmp_path / "found").iterdir()) == ["checkpoint.safetensors", "train.jsonl"]


def test_a_test_that_was_stopped_goes_on_to_the_same_rate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, whole, parts = digits(), net(), net()
    expected = train_model(whole, data, epochs=1, directory=tmp_path / "whole", config=AUTO).rate_test
    seen: list[int] = []
    with monkeypatch.context() as patch:
        interrupt_at(patch, 13)
        with pytest.raises(KeyboardInterrupt):
            train_model(parts, data, epochs=1, directory=tmp_path / "parts", config=AUTO)
    begin = RangeTest.begin
    monkeypatch.setattr(RangeTest, "begin", lambda self, resume: seen.append(begin(self, resume=resume)))
    result = train_model(parts, data, epochs=1, directory=tmp_path / "parts", config=AUTO)
    assert seen == [13] and result.rate_test is not None and expected is not None
    assert (result.rate_test.rate, result.rate_test.losses) == (expected.rate, expected.losses) and same(parts, whole)

    monkeypatch.setattr(RangeTest, "go", None)  # a finished run keeps what its test found
    assert train_model(net(), data, epochs=1, directory=tmp_path / "parts", config=AUTO).rate_test == result.rate_test


def test_the_rate_is_where_four_fifths_of_the_fall_are_behind() -> None:
    rates = [rate_of_step(step) for step in range(60)]
    losses = [2.0] * 20 + [2.0 - 0.05 * n for n in range(1, 21)] + [1.0] * 20
    chosen = rates.index(choose_rate(rates, losses))
    mean = rate_test.running_mean(losses)
    assert mean[chosen] <= 2.0 - 0.8 * (2.0 - min(mean)) < mean[chosen - 1]
    assert not has_turned(losses) and has_turned([*losses, *[2.5] * 5]) and not has_turned([9.0] * 5)
    assert rates[0] == pytest.approx(1e-3) and rates[-1] == pytest.approx(6)


def test_a_network_that_learns_at_no_rate_is_named() -> None:
    with pytest.raises(TrainingError, match=r"the loss falls at no learning rate from 0.001 to .*Give a rate yourself"):
        choose_rate([rate_of_step(step) for step in range(20)], [2.0 + step / 10 for step in range(20)])
    with pytest.raises(TrainingError, match="falls at no learning rate"):
        choose_rate([1e-3], [2.0])


def test_a_network_that_diverges_at_the_lowest_rate_is_named(tmp_path: Path) -> None:
    network = net()
    with torch.no_grad():
        next(network.parameters()).fill_(float("nan"))
    with pytest.raises(TrainingError, match=r"nan at learning rate 0\.001, the lowest of the range test"):
        train_model(network, digits(), epochs=1, directory=tmp_path, config=replace(CONFIG, lr="auto"))


def test_auto_is_the_only_word_that_stands_for_a_rate() -> None:
    values = {
        "models": [{"model": "resnet20"}],
        "data": [{"name": "digits", "spec": "digits"}],
        "arms": [{"arm": "dense"}],
    }
    runs = make_experiment({**values, "train": {"lr": ["auto", 0.1]}}).runs
    assert [TrainConfig(**run.train).lr for run in runs] == ["auto", 0.1] and "lr auto" in str(runs[0])
    with pytest.raises(ExperimentError, match="lr"):
        make_experiment({**values, "train": {"lr": "fast"}})
    with pytest.raises(TrainingError, match="lr must be above 0, or auto"):
        TrainConfig(lr=0.0).check()


def test_an_artifact_keeps_the_rate_and_the_seconds_beside_its_manifest(tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    source = resolve_address("resnet20", {"width": 0.25, "num_classes": 10}, input_shape=(3, 8, 8))
    artifact.save(source.build(), tmp_path, source=source)
    data = load_data("digits", input_shape=(3, 8, 8), limit=128)
    config = TrainConfig(lr="auto", batch_size=32, precision="fp32")
    training = train_artifact(tmp_path, data, epochs=1, config=config)
    assert training.found_rate is not None and training.found_rate.seconds is not None
    assert f"learning rate {training.found_rate.rate:.3g}, found by" in str(training)
    stored = artifact.Artifact.open(tmp_path)
    assert stored.timed_training == training and stored.training is not None
    assert stored.training.found_rate == replace(training.found_rate, seconds=None)
    assert not list(tmp_path.glob("*.safetensors.tmp")) and not (tmp_path / "rate.safetensors").exists()
    assert train_artifact(tmp_path, data, epochs=1, config=config) == training


def test_a_loss_below_zero_turns_only_where_it_rises() -> None:
    falling = [-1 - 0.05 * step for step in range(60)]
    assert not has_turned(falling) and has_turned([*falling, *[2.0] * 10])
