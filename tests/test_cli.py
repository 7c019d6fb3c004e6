"""The command line: exit codes, JSON, one clear line for trouble, and the whole way on small models."""

from __future__ import annotations

import dataclasses
import errno
import importlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from reconvene import artifact, cli, pipeline
from reconvene.cli import main
from reconvene.surgery import Plan

SMALL = ["resnet20", "--model-arg", "width=0.25", "--params", "2x"]


def python(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)


def answer(capfd: pytest.CaptureFixture[str], *arguments: str) -> Any:
    capfd.readouterr()
    assert main([*arguments, "--json"]) == 0, capfd.readouterr().err
    return json.loads(capfd.readouterr().out)


def trouble(capfd: pytest.CaptureFixture[str], *arguments: str, code: int = 1) -> str:
    """What stderr says last; for exit code 1 that is one line, with nothing on stdout."""
    capfd.readouterr()
    assert main(list(arguments)) == code
    out, err = capfd.readouterr()
    assert out == "" and "Traceback" not in err
    return err.strip().splitlines()[-1] if code == 1 else err


# ---- starting up, usage ----


@pytest.mark.parametrize(
    "arguments", [["--help"], ["--version"], ["prune", "--help"], ["nothing"], ["prune", "--what"]]
)
def test_help_and_usage_errors_do_not_wait_for_torch(arguments: list[str]) -> None:
    code = "import sys; from reconvene.cli import main; main(sys.argv[1:]); sys.exit('torch' in sys.modules)"
    done = python(code, *arguments)
    assert done.returncode == 0, done.stderr


def test_help_lists_every_command(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    shown = capfd.readouterr().out
    assert all(f"  {name} " in shown for name in cli.COMMANDS)


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_every_command_has_help_and_the_common_options(command: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--help"]) == 0
    shown = capfd.readouterr().out
    assert "--seed" in shown and "--json" in shown and f"reconvene {command}" in shown


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "usage"),
        (["prun"], "There are: inspect, prune"),
        (["prune", "resnet20"], "-o"),
        (["prune", "resnet20", "-o", "out", "--criterium", "snip"], "--criterium"),
        (["prune", "resnet20", "-o", "out"], "a budget is missing"),
        (["prune", "resnet20", "-o", "out", "--params", "2x", "--input", "3xx32"], "--input"),
        (["prune", "resnet20", "-o", "out", "--params", "2x", "--round-to", "0"], "--round-to"),
        (["export", "out", "--to", ","], "--to"),
        (["bench", "out", "--repeats", "0"], "--repeats"),
    ],
)
def test_usage_errors_leave_with_2(arguments: list[str], said: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert said in trouble(capfd, *arguments, code=2)


def test_python_dash_m_is_the_same_program() -> None:
    done = subprocess.run([sys.executable, "-m", "reconvene", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("reconvene ")


# ---- what cannot be done: exit code 1 and one clear line ----

MODELS = """
import torch
from torch import nn

class Sum(nn.Module):
    def forward(self, x):
        return x.sum((2, 3))

class Broken(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3))
        with torch.no_grad():
            self[0].weight[0, 0, 0, 0] = float("nan")
"""


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["vgg17", "--params", "2x"], "vgg16_bn"),
        (["resnet20", "--params", "2x", "--criterion", "snap"], "synflow"),
        (["resnet20", "--params", "2x", "--evaluator", "oracle"], "density"),
        (["resnet20", "--params", "2x", "--rectify", "hope"], "reinit"),
        (["resnet20", "--params", "lots"], "lots"),
        (["resnet20", "--params", "2x", "--latency", "5ms"], "device profile"),
        (
            ["resnet20", "--model-arg", "width=0.25", "--params", "10"],
            "params",
        ),  # below the floor, which the message names
        (["resnet20", "--params", "2x", "--input", "1x32x32"], "1, 32, 32"),
        (["resnet20", "--params", "2x", "--model-arg", "depth=3"], "num_classes"),
        (["resnet20", "--params", "2x", "--model-arg", "depth"], "name=value"),
        (["models_of_a_user:Sum", "--params", "2x", "--input", "3x8x8"], "--allow-import"),
        (["models_of_a_user:Sum", "--params", "2x", "--input", "3x8x8", "--allow-import"], "nothing"),
        (["models_of_a_user:Broken", "--params", "2x", "--input", "3x8x8", "--allow-import"], "not finite"),
        (["resnet20", "--params", "2x", "--criterion", "snip", "--data", "/nowhere"], "/nowhere"),
    ],
)
def test_what_cannot_be_pruned_is_said_in_one_line_and_leaves_nothing(
    arguments: list[str],
    said: str,
    capfd: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "models_of_a_user.py").write_text(MODELS)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "models_of_a_user", raising=False)
    assert said in trouble(capfd, "prune", *arguments, "-o", str(tmp_path / "a"))
    assert not (tmp_path / "a").exists()


def test_a_folder_that_cannot_be_written_says_so(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert "cannot write" in trouble(capfd, "prune", *SMALL, "-o", str(tmp_path / "file" / "a"))


@pytest.mark.parametrize("kind", [errno.EROFS, errno.EACCES, errno.ENOSPC], ids=["read-only", "denied", "full"])
@pytest.mark.parametrize("existing", [False, True], ids=["new", "existing"])
def test_a_disk_that_refuses_is_said_in_one_line_and_changes_nothing(
    kind: int, existing: bool, capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "a"
    before = prune(folder) if existing else None

    def refuse(descriptor: int) -> None:
        raise OSError(kind, os.strerror(kind))

    monkeypatch.setattr(os, "fsync", refuse)  # tests may run as root, whom no folder refuses
    assert os.strerror(kind) in trouble(capfd, "prune", *SMALL, "--seed", "1", "-o", str(folder))
    # What was made from the artifact may be gone already; the artifact itself is what it was, with nothing beside it.
    assert {p.name for p in tmp_path.rglob("*")} - {"timings.json"} == ({"a", *before} if before else set())
    assert before is None or all((folder / name).read_bytes() == data for name, data in before.items())


@pytest.mark.skipif(os.name != "posix", reason="limits of a process are POSIX")
def test_a_file_that_the_system_really_cuts_short_leaves_nothing(tmp_path: Path) -> None:
    limited = "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (9000, 9000)); " + (
        "from reconvene.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    done = python(limited, "prune", *SMALL, "-o", str(tmp_path / "a"))
    assert done.returncode == 1 and done.stdout == "" and "Traceback" not in done.stderr, done.stderr
    assert "File too large" in done.stderr.splitlines()[-1]
    assert list(tmp_path.iterdir()) == []


def test_trouble_of_the_system_that_no_room_foresaw_is_one_line_too(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(*_: Any, **__: Any) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO), "disk")

    monkeypatch.setattr(Plan, "apply", gone)
    assert os.strerror(errno.EIO) in trouble(capfd, "prune", *SMALL, "-o", str(tmp_path / "a"))


@pytest.mark.parametrize("command", ["train", "export", "bench"])
def test_a_folder_that_is_no_artifact_says_so(command: str, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert "no Reconvene artifact" in trouble(capfd, command, str(tmp_path))


def test_ctrl_c_leaves_with_130_and_no_artifact(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Plan, "apply", interrupted)
    assert "interrupted" in trouble(capfd, "prune", *SMALL, "-o", str(tmp_path / "a"), code=130)
    assert not (tmp_path / "a").exists()


# ---- pruning ----


def prune(folder: Path, *more: str) -> dict[str, bytes]:
    assert main(["prune", *SMALL, "-o", str(folder), *more]) == 0
    return {name: (folder / name).read_bytes() for name in (artifact.PLAN, artifact.WEIGHTS, artifact.MANIFEST)}


def test_a_seed_gives_the_same_artifact_byte_for_byte(tmp_path: Path) -> None:
    first, second, third = (prune(tmp_path / name) for name in "abc")
    other = prune(tmp_path / "d", "--seed", "1")
    assert first == second == third
    assert first[artifact.WEIGHTS] != other[artifact.WEIGHTS]


def test_prune_answers_in_json_alone_and_keeps_the_budget(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    found = answer(capfd, "prune", *SMALL, "-o", str(tmp_path / "a"))
    assert found["costs"]["pruned"]["params"] <= found["costs"]["dense"]["params"] / 2
    model = artifact.load(tmp_path / "a")
    assert sum(p.numel() for p in model.parameters()) == found["costs"]["pruned"]["params"]
    assert {"structure", "saliency", "sensitivity", "allocation", "surgery", "rectify"} <= set(found["timings"])


def test_a_criterion_that_needs_data_names_what_it_saw(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    answer(capfd, "prune", *SMALL, "-o", str(tmp_path / "a"), "--criterion", "snip")
    plan = artifact.read_plan(tmp_path / "a")
    assert plan is not None and plan.data is not None and "digits" in plan.data


def test_inspect_lists_groups_and_what_is_pinned(capfd: pytest.CaptureFixture[str]) -> None:
    groups = answer(capfd, "inspect", "resnet20", "--model-arg", "width=0.25")["sensitivity"]["groups"]
    assert any(group["prunable"] and group["sensitivity"] > 0 for group in groups)
    assert any(not group["prunable"] and group["reason"] == "network output" for group in groups)


# ---- the whole way ----

FAST = ["--limit", "60", "--epochs", "1", "--batch-size", "20"]


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a whole way, made once."""
    pytest.importorskip("onnxruntime"), pytest.importorskip("sklearn")
    folder = tmp_path_factory.mktemp("run") / "a"
    assert main(["run", *SMALL, *FAST, "-o", str(folder)]) == 0
    return folder


def test_run_leaves_everything(ran: Path) -> None:
    names = {path.name for path in ran.iterdir()}
    assert {"plan.json", "model.safetensors", "reconvene.json", "train.jsonl", "model.onnx", "dense.onnx"} <= names
    assert {"bench.json", "report.html", "dense"} <= names
    assert not any(name.endswith(".new") or name.startswith("checkpoint") for name in names)
    assert "resnet20" in (ran / "report.html").read_text()


def test_run_again_does_nothing_twice_and_answers_the_same(
    ran: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    module = sys.modules["reconvene.pipeline.run"]
    monkeypatch.setattr(module, "prune", lambda *a, **k: pytest.fail("pruned again"))
    monkeypatch.setattr(sys.modules["reconvene.pipeline.train"], "train_model", lambda *a, **k: pytest.fail("trained"))
    found = answer(capfd, "run", *SMALL, *FAST, "-o", str(ran))
    dense, pruned = found["costs"]["dense"], found["costs"]["pruned"]
    assert set(dense) == {"params", "macs", "size", "peak_memory", "latency", "accuracy"} == set(pruned)
    assert pruned["params"] <= dense["params"] / 2
    assert found["verified"]["dense"] < 1e-4 and found["verified"]["pruned"] < 1e-4
    assert pruned["accuracy"] == artifact.manifest(ran).measurements["training"]["accuracy"]


def test_a_trained_artifact_is_not_replaced_unasked(ran: Path, capfd: pytest.CaptureFixture[str]) -> None:
    before = (ran / artifact.WEIGHTS).read_bytes()
    assert "--overwrite" in trouble(capfd, "prune", *SMALL, "-o", str(ran))
    assert "--overwrite" in trouble(capfd, "run", *SMALL, *FAST, "--seed", "3", "-o", str(ran))
    assert (ran / artifact.WEIGHTS).read_bytes() == before


def test_another_training_of_a_trained_artifact_is_asked_for_by_name(
    ran: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert "--again" in trouble(capfd, "train", str(ran), *FAST[:2], "--epochs", "2")


def test_formats_and_runtimes_that_are_not_known_list_those_that_are(
    ran: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert "onnx" in trouble(capfd, "export", str(ran), "--to", "tflite")
    assert "onnxruntime" in trouble(capfd, "bench", str(ran), "--runtimes", "tflite")


def test_export_and_bench_answer_in_json_alone(ran: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (export,) = answer(capfd, "export", str(ran))["exports"]
    assert export["file"] == "model.onnx" and export["verification"]["agreement"] == 1
    rows = answer(capfd, "bench", str(ran), "--repeats", "2", "--runtimes", "eager")["rows"]
    assert [row["variant"] for row in rows] == ["dense", "pruned"]


def test_training_data_that_does_not_fit_the_model_says_so(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    assert main(["prune", *SMALL, "--model-arg", "num_classes=7", "-o", str(tmp_path / "a")]) == 0
    assert "num_classes=10" in trouble(capfd, "train", str(tmp_path / "a"), *FAST)


def test_train_goes_on_after_ctrl_c(tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    folder = tmp_path / "a"
    before = prune(folder)
    command = [sys.executable, "-m", "reconvene", "train", str(folder), "--epochs", "12", "--limit", "200", "--json"]
    running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 200
    while len(_lines(folder / "train.jsonl")) < 3 and running.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    running.send_signal(signal.SIGINT)
    out, err = running.communicate(timeout=60)
    assert running.returncode == 130 and out == "" and "Traceback" not in err, err
    assert (folder / artifact.WEIGHTS).read_bytes() == before[artifact.WEIGHTS]
    done = len(_lines(folder / "train.jsonl"))
    again = pipeline.train(folder, _digits(200), epochs=12)
    assert again.epochs == 12 and len(_lines(folder / "train.jsonl")) == 13 > done >= 3
    assert not (folder / "checkpoint.safetensors").exists()
    assert (folder / artifact.WEIGHTS).read_bytes() != before[artifact.WEIGHTS]


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def _digits(limit: int) -> Any:
    from reconvene.data import load

    return load("digits", input_shape=(3, 32, 32), limit=limit)


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_the_documentation_knows_every_option(command: str) -> None:
    kind = getattr(importlib.import_module(f"reconvene.cli.{command}"), cli.COMMANDS[command][0])
    text = (Path(__file__).parents[1] / "docs" / "cli.md").read_text()
    for option in dataclasses.fields(kind):
        if option.name not in ("model", "directory"):
            assert f"--{option.name.replace('_', '-')}" in text, option.name
