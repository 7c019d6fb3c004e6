"""What cannot be done: exit code 1, one clear line, and nothing left behind."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from reconvene import artifact
from reconvene.cli import Terminated, terminable
from reconvene.surgery import Plan
from support.cli_calls import SMALL, prune, python, trouble

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
        (["resnet20", "--params", "2x", "--latency", "5ms", "--device", "no.json"], "device profile no.json"),
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
        (["resnet20", "--params", "2x", "--data", "/nowhere"], "/nowhere"),  # though synflow looks at none
        (["resnet20", "--params", "2x", "--device", "no.json"], "device profile no.json"),
    ],
)
def test_an_error_of_prune_is_one_line_and_leaves_nothing(
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
    for folder in (tmp_path / "file" / "a", tmp_path / "file"):
        assert "cannot write" in trouble(capfd, "prune", *SMALL, "-o", str(folder))


@pytest.mark.parametrize("kind", [errno.EROFS, errno.EACCES, errno.ENOSPC], ids=["read-only", "denied", "full"])
@pytest.mark.parametrize("existing", [False, True], ids=["new", "existing"])
def test_an_error_of_the_disk_is_one_line_and_changes_nothing(
    kind: int, existing: bool, capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "a"
    if existing:
        prune(folder)
        (folder / "model.onnx").write_bytes(b"made from it")
        (folder / "dense").mkdir()
        (folder / "dense" / artifact.MANIFEST).write_bytes(b"trained beside it")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    def refuse(descriptor: int) -> None:
        raise OSError(kind, os.strerror(kind))

    monkeypatch.setattr(os, "fsync", refuse)  # tests may run as root, whom no folder refuses
    assert os.strerror(kind) in trouble(capfd, "prune", *SMALL, "--seed", "1", "-o", str(folder))
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    assert {path.name for path in tmp_path.rglob("*") if path.is_dir()} == ({"a", "dense"} if existing else set())


@pytest.fixture(scope="module")
def small_artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("small") / "a"
    prune(folder)
    return folder


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["export", "DIR", "--keep-fp32", "head"], "--keep-fp32 says nothing without --quantize"),
        (["export", "DIR", "--min-sqnr", "20"], "--min-sqnr says nothing without --quantize"),
        (["export", "DIR", "--limit", "9"], "--limit says nothing without --data"),
        (["export", "DIR", "--tolerance", "2"], "--tolerance 2.0: it is a share between 0 and 1"),
        (["bench", "DIR", "--calibration-samples", "9"], "--calibration-samples says nothing without --data"),
        (["bench", "DIR", "--repeats", "0"], "--repeats 0: it is 1 at least"),
        (["run", *SMALL, "--skip-int8", "--min-agreement", "0.5"], "--min-agreement is about int8"),
        (["train", "DIR", "--temperature", "2"], "--temperature says nothing without --distill or --teacher"),
        (
            ["train", "DIR", "--device", "here"],
            "--device says how channels leave and come back during training: add --grow",
        ),
        (["train", "DIR", "--grow", "--for-int8"], "--for-int8 is about a budget, such as --params 4x"),
        (["train", "DIR", "--grow", "--params", "2x", "--again"], "network on labels: leave --again out"),
        (["prune", *SMALL, "--trained", "--mean", "0", "-o", "DIR"], "--mean and --std belong together"),
        (["prune", *SMALL, "--trained", "--train-on", "cpu", "-o", "DIR"], "--train-on is about tuning after a cut"),
        (["prune", *SMALL, "--round-to", "0", "-o", "DIR"], "--round-to 0: it is 1 at least"),
        (["device", "profile", "--input", "3x8x8", "-o", "p.json"], "--input says nothing without MODEL"),
        (["replace", "DIR", "--allow", "relu", "--lr", "0.1", "-o", "DIR2"], "--lr says nothing without --epochs"),
        (["replace", "DIR", "-o", "DIR2"], "say what may be left, such as --allow relu,relu6"),
        (["prune", *SMALL, "--size-of", "onnx", "-o", "DIR2"], "--size-of says what --size is about"),
        (["prune", *SMALL, "--memory-of", "onnx", "-o", "DIR2"], "--memory-of says what --peak-memory is about"),
        (["prune", *SMALL, "--for-int8", "-o", "DIR2"], "--for-int8 says what --latency, --size-of or --memory-of"),
        (["prune", *SMALL, "--trained", "--pretrained", "--weights", "w.safetensors", "-o", "DIR2"], "Give one of"),
        (["bench", "DIR", "--runtimes", ","], "--runtimes names no runtime"),
        (["fit", "here", "--models", ",", "--params", "2x"], "--models names no architecture"),
        (["train", "DIR", "--qat", "--sparsity", "slimming"], "--sparsity is for ordinary training, not for --qat"),
        (["train", "resnet8", "-o", "DIR"], "holds another network than resnet8 as it was asked for"),
        (["export", "DIR", "--target", "ethos-u55-128"], "--target compiles the int8 LiteRT file"),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value[:3]),
)
def test_an_option_that_says_nothing_is_refused(
    capfd: pytest.CaptureFixture[str], small_artifact: Path, tmp_path: Path, arguments: list[str], words: str
) -> None:
    places = {"DIR": str(small_artifact), "DIR2": str(tmp_path / "b"), "p.json": str(tmp_path / "p.json")}
    assert words in trouble(capfd, *(places.get(word, word) for word in arguments), code=2)
    assert not list(tmp_path.iterdir())


def test_an_artifact_that_is_replaced_takes_what_was_made_from_it_along(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    prune(tmp_path)
    for name in ("model.onnx", "model.int8.xml", "model.int8.bin", "dense.tflite", "model.txt", "notes.bin"):
        (tmp_path / name).write_bytes(b"of the first")
    (tmp_path / ".replaced").mkdir()  # left by a process that was killed
    capfd.readouterr()
    prune(tmp_path, "--seed", "1")
    gone = f"removed with the network that was in {tmp_path}: dense.tflite, model.int8.bin, model.int8.xml, model.onnx"
    assert gone in capfd.readouterr().err
    assert {path.name for path in tmp_path.iterdir()} == {
        artifact.MANIFEST,
        artifact.PLAN,
        artifact.WEIGHTS,
        "timings.json",
        "model.txt",  # nothing that exporting writes
        "notes.bin",
    }


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
    assert "not a Reconvene artifact" in trouble(capfd, command, str(tmp_path))


def test_ctrl_c_leaves_with_130_and_no_artifact(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Plan, "apply", interrupted)
    assert "interrupted" in trouble(capfd, "prune", *SMALL, "-o", str(tmp_path / "a"), code=130)
    assert not (tmp_path / "a").exists()


STUCK = """
import sys, time
from reconvene.cli import main
from reconvene.deploy import exporter

def stuck(work, written, check):
    print(*(path.name for path in written.files[0].parents[1].iterdir()), flush=True)
    time.sleep(60)

exporter.verified = stuck
sys.exit(main(["export", sys.argv[1], "--input", "3x32x32"]))
"""


def test_sigterm_leaves_with_143_and_no_file_that_was_begun(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    before = prune(tmp_path / "a")
    names = {path.name for path in (tmp_path / "a").iterdir()}
    export = subprocess.Popen(
        [sys.executable, "-c", STUCK, str(tmp_path / "a")], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    # what the command prints goes to stderr: stdout is for its answer alone
    assert export.stderr is not None and export.stdout is not None
    lines = iter(export.stderr.readline, "")  # lines of progress come first
    assert any(".model-" in line for line in lines), "it was in the middle of its work"
    export.terminate()
    out, err = export.communicate(timeout=30)
    assert export.returncode == 143 and out == "" and err.strip() == "reconvene export: terminated"
    assert {path.name for path in (tmp_path / "a").iterdir()} == names
    assert {name: (tmp_path / "a" / name).read_bytes() for name in before} == before


def test_sigterm_is_what_it_was_after_a_command() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with terminable():
        assert signal.getsignal(signal.SIGTERM) is not before
        with pytest.raises(Terminated):
            os.kill(os.getpid(), signal.SIGTERM)
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN, "a second one must not stop the tidying up"
    assert signal.getsignal(signal.SIGTERM) is before
