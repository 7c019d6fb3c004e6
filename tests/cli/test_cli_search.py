"""``reconvene search``: from a trained artifact to a small one with bits, which is trained on with its roundings."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from torch import nn

import reconvene as rc
from reconvene import artifact
from reconvene.artifact import Training
from reconvene.cli import main
from reconvene.models import ModelSource
from support.cli_calls import answer, trouble

SOURCE = ModelSource("resnet20", {"num_classes": 10, "width": 0.125, "in_channels": 1}, (1, 8, 8), 3)
DATA = ["--data", "digits", "--limit", "100"]


def dense(folder: Path, *, trained: bool = True) -> Path:
    """An artifact that says it was trained; how well does not matter here."""
    extra = {"training": Training(1, "digits", {"accuracy": 0.5}, 1.0)} if trained else {}
    artifact.save(SOURCE.build(), folder, source=SOURCE, extra=extra)
    return folder


def test_a_search_leaves_an_artifact_within_its_budget(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    told = answer(
        capfd, "search", str(dense(tmp_path / "dense")), *DATA, "--size", "8kB", "--bits", "0,2,4,8", "--epochs", "2",
        "-o", str(out),
    )  # fmt: skip
    assert told["costs"]["pruned"]["size"] <= 8000 and 0 <= told["accuracy"] <= 1
    small = rc.load(out)
    stored = artifact.Artifact.open(out)
    assert small.reconvene_plan.bits is not None and stored.pruning.bits == (0, 2, 4, 8)
    assert stored.training.metrics == {"accuracy": told["accuracy"]}
    assert not (out / "checkpoint.safetensors").exists()
    assert "holds a model that was trained" in trouble(
        capfd, "search", str(tmp_path / "dense"), *DATA, "--size", "8kB", "-o", str(out)
    )


def test_a_checkpoint_of_something_else_does_not_open_a_trained_artifact(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = dense(tmp_path / "out")
    (out / "checkpoint.safetensors").write_bytes(b"of a training that was stopped")
    search = ["search", str(dense(tmp_path / "dense")), *DATA, "--size", "8kB", "-o", str(out)]
    assert "holds a model that was trained" in trouble(capfd, *search)


def test_networks_that_a_search_cannot_begin_with_are_refused(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = str(dense(tmp_path / "dense", trained=False))
    out = ["-o", str(tmp_path / "out")]
    assert "is not trained" in trouble(capfd, "search", folder, *DATA, "--size", "8kB", *out)
    assert "a budget is missing" in trouble(capfd, "search", folder, *DATA, *out, code=2)
    assert "not a list of numbers" in trouble(
        capfd, "search", folder, *DATA, "--size", "8kB", "--bits", "a", *out, code=2
    )
    floor = trouble(capfd, "search", folder, *DATA, "--size", "100", "--warmup", "1", "--epochs", "3", *out)
    assert "with the fewest channels and bits it is" in floor


def test_layers_of_a_pruned_network_read_few_bits(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder, out = str(dense(tmp_path / "dense")), str(tmp_path / "out")
    bits = ["--bits", "0,2,4,8", "--activation-bits", "4,8"]
    prune = ["prune", folder, "--trained", *DATA, "--cycles", "2.5x", "--target", "mpic", *bits, "-o", out]
    assert main(prune) == 0
    assert "bits of output channels: " in capfd.readouterr().out
    told = answer(capfd, *prune, "--overwrite")
    assert told["costs"]["pruned"]["cycles"] <= told["limits"]["cycles"]
    plan = rc.load(out).reconvene_plan
    assert set(plan.bits.inputs.values()) == {4} and told["bits"] == plan.bits.to_dict()
    assert "has a plan of bits" in trouble(capfd, "train", out, *DATA, "--qat")
    assert artifact.Artifact.open(out).pruning.activation_bits == (4, 8)
    searched = str(tmp_path / "searched")
    answer(capfd, "search", folder, *DATA, "--ops-bit", "6x", *bits, "--epochs", "2", "-o", searched)
    assert set(rc.load(searched).reconvene_plan.bits.inputs.values()) == {4}
    assert "Try: --bits 0,2,4,8" in trouble(
        capfd,
        "prune",
        folder,
        "--trained",
        "--params",
        "2x",
        "--activation-bits",
        "4,8",
        "-o",
        str(tmp_path / "no"),
        code=2,
    )


def test_scores_are_those_of_the_rounded_network(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    judged: list[nn.Module] = []

    def spy(function: Any) -> Any:
        return lambda model, *args, **kwargs: (judged.append(model), function(model, *args, **kwargs))[1]

    for place, name in (("iterative", "evaluate_split"), ("evaluate", "evaluate_split"), ("evaluate", "assess")):
        module = import_module(f"reconvene.workflow.{place}")
        monkeypatch.setattr(module, name, spy(getattr(module, name)))
    folder, out, steps = str(dense(tmp_path / "dense")), str(tmp_path / "out"), str(tmp_path / "steps")
    prune = ["prune", folder, "--trained", *DATA, "--size", "9x", "--bits", "2"]
    for command in (
        [*prune, "-o", out],
        ["evaluate", out, *DATA],
        [*prune, "-o", steps, "--steps", "2", "--epochs", "0"],
    ):
        judged.clear()
        answer(capfd, *command)
        levels = [len(network.get_parameter("stem.0.weight")[0].unique()) for network in judged]
        assert min(levels) <= 4 and levels.count(9) <= 1, command  # all but the dense network are rounded
