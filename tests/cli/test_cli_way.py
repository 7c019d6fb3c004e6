"""The whole way on the command line, on small models: prune, train, export, bench, run."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from typing import Any

import pytest

from reconvene import artifact, workflow
from reconvene.cli import main
from reconvene.training.run import TrainingRun
from support.cli_calls import SMALL, answer, prune, trouble

# The whole way takes a minute of one core, and many where others have the core: how long is not what is tested here.
pytestmark = pytest.mark.timeout(1800)

# ---- pruning ----


def test_a_seed_gives_the_same_artifact_byte_for_byte(tmp_path: Path) -> None:
    first, second = prune(tmp_path / "a"), prune(tmp_path / "b")
    other = prune(tmp_path / "c", "--seed", "1")
    assert first == second
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


@pytest.mark.parametrize(
    ("options", "noted"),
    [
        (["--data", "elsewhere", "--mean", "0.5"], "no data was read: --data, --mean changed nothing"),
        (["--criterion", "magnitude", "--evaluator", "fan_in"], "'magnitude' changes nothing in the table"),
    ],
)
def test_inspect_notes_options_that_changed_nothing(
    options: list[str], noted: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["inspect", "resnet8", *options]) == 0
    assert noted in capfd.readouterr().err


@pytest.mark.parametrize("command", [["inspect", "resnet8"], ["fit", "here", "--models", "resnet8", "--params", "2x"]])
def test_options_about_data_are_checked_where_no_data_is_read(
    command: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    assert "not a list of numbers" in trouble(capfd, *command, "--mean", "abc", code=2)
    assert "unknown task 'nosuch'" in trouble(capfd, *command, "--task", "nosuch")


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
    module = sys.modules["reconvene.workflow.run"]
    monkeypatch.setattr(module, "prune_artifact", lambda *a, **k: pytest.fail("pruned again"))
    monkeypatch.setattr(sys.modules["reconvene.workflow.train"], "train_model", lambda *a, **k: pytest.fail("trained"))
    found = answer(capfd, "run", *SMALL, *FAST, "-o", str(ran))
    dense, pruned = found["costs"]["dense"], found["costs"]["pruned"]
    fp32, int8 = {"params", "macs", "size", "peak_memory", "latency", "accuracy"}, {"int8_size", "int8_latency"}
    assert set(dense) == fp32 | int8 | {"int8_agreement"} == set(pruned)
    assert 0 < pruned["int8_size"] < dense["int8_size"] and 0 < pruned["int8_agreement"] <= 1
    for variant, name in (("dense", "dense"), ("pruned", "model")):
        kept = variant not in found["int8"]
        assert (ran / f"{name}.int8.onnx").exists() == kept, "a file that kept its limits is there, and no other"
    assert set(found["speedups"]) == {"latency", "int8_latency", "int8_gain"}, "each from rounds that timed both"
    assert pruned["params"] <= dense["params"] / 2
    assert found["verified"]["dense"] < 1e-4 and found["verified"]["pruned"] < 1e-4
    assert pruned["accuracy"] == artifact.Artifact.open(ran).training.score


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
    assert export["batch"] is None and export["notes"] == []
    (ran / "report.html").unlink()
    found = answer(capfd, "bench", str(ran), "--repeats", "2", "--runtimes", "eager")
    assert [row["variant"] for row in found["rows"]] == ["dense", "pruned"]
    assert found["report"] == str(ran / "report.html") and (ran / "report.html").exists()
    assert "report" not in answer(capfd, "bench", str(ran / "dense"), "--repeats", "2", "--runtimes", "eager")
    wrong = trouble(capfd, "bench", str(ran), "--repeats", "1", "--runtimes", "eager", "--input", "1x16x16")
    assert "1, 1, 16, 16" in wrong or "1x16x16" in wrong


def test_export_bundles_what_it_exported(ran: Path, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    asked = ["export", str(ran), "--dense", "--bundle", str(tmp_path / "device.tar.gz")]
    found = answer(capfd, *asked, "--data", "digits")["bundle"]
    assert found["bytes"] == (tmp_path / "device.tar.gz").stat().st_size and len(found["sha256"]) == 64
    assert "model.onnx" in found["files"] and "dense.onnx" not in found["files"]


@pytest.mark.parametrize(
    ("name", "options", "problem"),
    [
        ("device.zip", [], "NAME.tar.gz"),
        ("device.tar.gz", ["--batch", "2"], "one image at a time"),
        ("device.tar.gz", ["--to", "executorch"], "Export to one of"),
    ],
)
def test_what_fits_no_bundle_is_refused_before_the_export(
    name: str, options: list[str], problem: str, ran: Path, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    before = {path.name: path.read_bytes() for path in ran.iterdir() if path.is_file()}
    assert problem in trouble(capfd, "export", str(ran), "--seed", "5", *options, "--bundle", str(tmp_path / name))
    assert not list(tmp_path.iterdir())
    assert {path.name: path.read_bytes() for path in ran.iterdir() if path.is_file()} == before


@pytest.mark.parametrize("data", [[], ["--data", "digits"]])
def test_a_bundle_of_files_for_another_shape_is_refused_before_the_export(
    data: list[str], ran: Path, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    before = (ran / "model.onnx").read_bytes()
    shape = [*("--input", "3x64x64"), "--bundle", str(tmp_path / "b.tar.gz")]
    said = trouble(capfd, "export", str(ran), "--seed", "5", *shape, *data)
    assert "a bundle scales images to" in said and "files for 3x64x64" in said and "--input" in said
    assert not list(tmp_path.iterdir()) and (ran / "model.onnx").read_bytes() == before


def test_options_of_an_export_reach_the_file_and_the_manifest(
    ran: Path, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    options = ["--precision", "fp16", "--batch", "2", "--dynamic-axes", "height,width", "--opset", "19"]
    (export,) = answer(capfd, "export", str(ran), *options, "--task", "regression", "--tolerance", "0.05")["exports"]
    assert (export["file"], export["precision"], export["batch"], export["opset"]) == ("model.fp16.onnx", "fp16", 2, 19)
    assert export["dynamic_axes"] == ["height", "width"] and "verified at" in export["notes"][0]
    assert export["verification"]["tolerance"] == 0.05 and export["verification"]["agreement"] is None
    kept = json.loads((ran / artifact.MANIFEST).read_text())["measurements"]["exports"]
    assert [row for row in kept if row["file"] == export["file"]] == [{"variant": "pruned", **export}] or export in kept


LOOSE = ["--min-agreement", "0", "--min-sqnr", "5", "--max-accuracy-drop", "1"]


def test_int8_goes_into_the_bundle_as_it_was_asked_for(
    ran: Path, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Every option of int8 reaches the file on the device, and the device's own runner takes it."""
    onnx = pytest.importorskip("onnx")
    asked = ["export", str(ran), "--quantize", "int8", "--data", "digits", "--bundle", str(tmp_path / "b.tar.gz")]
    more = ["--keep-fp32", "classifier,stem.0", "--calibration-samples", "40", *LOOSE]
    found = answer(capfd, *asked, *more)
    (made,) = found["exports"]
    limits = {"agreement": 0.0, "sqnr": 5.0, "accuracy_drop": 1.0}
    assert made["precision"] == "int8" and made["verification"]["limits"] == limits
    with tarfile.open(tmp_path / "b.tar.gz") as tar:
        tar.extractall(tmp_path)  # our own archive; Python 3.11.2 takes no filter
    about = json.loads((tmp_path / "b" / "bundle.json").read_text())
    (model,) = about["models"]
    assert model["file"] == made["file"] == "model.int8.onnx" and model["precision"] == "int8"
    assert model["keep_fp32"] == made["keep_fp32"] == ["stem.0", "classifier"]
    assert "; in fp32: stem.0, classifier" in (tmp_path / "b" / "README.md").read_text()
    graph = onnx.load(tmp_path / "b" / "model.int8.onnx").graph
    plain = {tensor.name for tensor in graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT and tensor.dims}
    assert {name for name in plain if name.endswith(".weight")} == {"stem.0.weight", "classifier.weight"}
    for words in (["test"], ["classify", "example.ppm"], ["time", "--rounds", "2"]):
        command = [sys.executable, "run.py", *words]
        done = subprocess.run(command, cwd=tmp_path / "b", capture_output=True, text=True, check=False)
        assert done.returncode == 0 and done.stdout, done.stderr


def test_int8_that_keeps_no_limit_leaves_no_file_and_no_bundle(
    ran: Path, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    asked = ["export", str(ran), "--data", "digits", "--quantize", "int8", "--bundle", str(tmp_path / "b.tar.gz")]
    before = {path.name: path.read_bytes() for path in ran.iterdir() if path.is_file()}
    said = trouble(capfd, *asked, "--min-sqnr", "90")
    assert "at least 90.0 are required" in said and "hurts most is" in said and "--keep-fp32" in said
    assert "Available:" in trouble(capfd, *asked, "--keep-fp32", "no.such.layer")
    trouble(capfd, *asked, "--calibration-samples", "0", code=2)
    trouble(capfd, *(word for word in asked if word not in ("--data", "digits")), code=2)
    after = {path.name: path.read_bytes() for path in ran.iterdir() if path.is_file()}
    manifest = after.pop(artifact.MANIFEST)
    assert after == {name: content for name, content in before.items() if name != artifact.MANIFEST}
    assert "at least 90.0 are required" in json.loads(manifest)["measurements"]["refused"]["model.int8.onnx"]
    assert not list(tmp_path.iterdir())


def test_training_data_that_does_not_fit_the_model_says_so(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    assert main(["prune", *SMALL, "--model-arg", "num_classes=7", "-o", str(tmp_path / "a")]) == 0
    assert "num_classes=10" in trouble(capfd, "train", str(tmp_path / "a"), *FAST)


def test_train_goes_on_after_ctrl_c(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    folder = tmp_path / "a"
    before = prune(folder)
    command = [sys.executable, "-m", "reconvene", "train", str(folder), "--epochs", "40", "--limit", "200", "--json"]
    # So many epochs that they are not over before a busy machine gets to interrupt them; and Ctrl-C as at a terminal,
    # though a shell that runs these tests in its background has them, and all they start, ignore it.
    running = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    while len(_lines(folder / "train.jsonl")) < 3 and running.poll() is None:
        time.sleep(0.05)
    running.send_signal(signal.SIGINT)
    out, err = running.communicate()
    assert running.returncode == 130 and out == "" and "Traceback" not in err, err
    assert (folder / artifact.WEIGHTS).read_bytes() == before[artifact.WEIGHTS]
    done = len(_lines(folder / "train.jsonl"))
    assert "--no-resume" in trouble(capfd, "train", str(folder), "--epochs", "11", "--limit", "200")
    again = workflow.train(folder, _digits(200), epochs=40)
    assert again.epochs == 40 and len(_lines(folder / "train.jsonl")) == 41 > done >= 3
    assert not (folder / "checkpoint.safetensors").exists()
    assert (folder / artifact.WEIGHTS).read_bytes() != before[artifact.WEIGHTS]


def test_an_unfinished_training_can_be_started_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("sklearn")
    folder = tmp_path / "a"
    prune(folder)
    end_epoch = TrainingRun._end_epoch

    def stopped(self: TrainingRun) -> None:
        end_epoch(self)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(TrainingRun, "_end_epoch", stopped)
        assert main(["train", str(folder), *FAST, "--seed", "7"]) == 130
    assert (folder / "checkpoint.safetensors").exists()
    assert main(["train", str(folder), *FAST]) == 1, "the checkpoint is of another seed"
    assert main(["train", str(folder), *FAST, "--no-resume"]) == 0
    assert artifact.Artifact.open(folder).training.asked["seed"] == 0


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def _digits(limit: int) -> Any:
    from reconvene.data import load_data

    return load_data("digits", input_shape=(3, 32, 32), limit=limit)
