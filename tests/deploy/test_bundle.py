"""A device bundle runs by itself, is the same bytes twice, refuses what was altered, and answers as PyTorch does."""

from __future__ import annotations

import ast
import dataclasses
import gzip
import hashlib
import json
import os
import py_compile
import shutil
import subprocess
import sys
import tarfile
import time
import venv
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from reconvene import artifact, workflow
from reconvene.costs import Budget
from reconvene.data import Dataset, calibration, load_data
from reconvene.deploy import Bundled, Exported, check_bundle
from reconvene.deploy import export as export_file
from reconvene.deploy import write_bundle as write_bundle
from reconvene.deploy.bundle import device_program, pack, runnable
from reconvene.deploy.fidelity import Limits
from reconvene.errors import ArtifactError, DataError, ExportError
from reconvene.models import ModelSource
from reconvene.workflow import Pruning
from support.paths import TESTS

for needed in ("onnxscript", "onnxruntime", "sklearn", "PIL"):
    pytest.importorskip(needed)

# Nothing of ours and no torch may be imported: what a device does not have, run.py must not need.
ALONE = (
    "import runpy, sys; name = sys.argv[1]; sys.argv = sys.argv[1:]; code = 0\n"
    "try: runpy.run_path(name, run_name='__main__')\n"
    "except SystemExit as stop: code = stop.code\n"
    "assert not {'torch', 'reconvene'} & set(sys.modules); sys.exit(code)"
)


@dataclasses.dataclass
class Made:
    artifact: Path
    dataset: Dataset
    exports: list[Exported]
    bundled: Bundled


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("bundle") / "a"
    artifact.save(ModelSource("resnet20", {"width": 0.25}, (3, 32, 32)).build(), folder)
    dataset = load_data("digits", input_shape=(3, 32, 32), limit=120)
    workflow.train(folder, dataset, epochs=1)
    exports = workflow.export_artifact(folder, dataset=dataset)["dense"]
    loose = Limits(accuracy_drop=1.0, agreement=0.0, sqnr=0.0)  # one epoch leaves scores that are nearly ties
    model, samples = artifact.load(folder), calibration(dataset, 40)
    exports.append(export_file(model, folder, quantize="int8", calibration=samples, limits=loose))
    bundled = workflow.bundle(folder, folder.parent / "device.tar.gz", exports=exports, dataset=dataset)
    return Made(folder, dataset, exports, bundled)


@pytest.fixture
def unpacked(made: Made, tmp_path: Path) -> Path:
    with tarfile.open(made.bundled.path) as tar:
        tar.extractall(tmp_path)  # our own archive; Python 3.11.2 takes no filter
    return tmp_path / "device"


def run(folder: Path, *words: str, python: str = sys.executable) -> subprocess.CompletedProcess[str]:
    command = [python, "-I", "-c", ALONE, str(folder / "run.py"), *words]
    return subprocess.run(command, capture_output=True, text=True, cwd=folder.parent, check=False)


def answer(folder: Path, *words: str) -> Any:
    done = run(folder, *words, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_it_tests_times_and_classifies_by_itself(unpacked: Path) -> None:
    tested = answer(unpacked, "test")
    assert tested["passed"] and tested["images"] == 16
    exact = {"passed": True, "relative_error": 0.0, "bit_exact": True, "same_label": 16}
    assert tested["models"] == {"model.onnx": exact, "model.int8.onnx": exact}
    assert answer(unpacked, "test", "--model", "model.int8.onnx")["models"] == {"model.int8.onnx": exact}
    assert answer(unpacked, "time", "--model", "model.int8.onnx", "--rounds", "2")["model"] == "model.int8.onnx"
    timed = answer(unpacked, "time", "--rounds", "7")
    assert 0 < timed["wall_ms_min"] <= timed["wall_ms_median"] and timed["rounds"] == 7
    example = unpacked / "example.ppm"
    (best, *_) = answer(unpacked, "classify", str(example), "--top", "10")["images"][str(example)]
    assert best["label"] in "0123456789" and 0.1 <= best["probability"] <= 1
    text = run(unpacked, "test").stdout
    assert text.startswith("passed  model.onnx: 16 of 16 labels the same, bit for bit")


@pytest.mark.parametrize("size", [(32, 32), (64, 64), (50, 41)])
def test_it_answers_what_pytorch_answers(size: tuple[int, int], made: Made, unpacked: Path) -> None:
    """From a PNG of any size to the label, against the pictures and the model that training had."""
    from PIL import Image

    from reconvene.data.decode import _covering

    picture = Image.fromarray(made.dataset.test.images[3].permute(1, 2, 0).numpy()).resize(size[::-1])
    picture.save(unpacked / "a.png")
    fitted = picture if size == (32, 32) else _covering(picture, 32, 32, nearest=False)
    pixels = torch.from_numpy(np.array(fitted)).permute(2, 0, 1)[None]
    with torch.no_grad():
        expected = artifact.load(made.artifact).eval()(made.dataset.normalise(pixels)).softmax(1)[0]
    found = answer(unpacked, "classify", str(unpacked / "a.png"), "--top", "10")["images"][str(unpacked / "a.png")]
    for entry in found:
        assert entry["probability"] == pytest.approx(float(expected[int(entry["label"])]), abs=0.01)


def test_the_same_model_gives_the_same_bytes(made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time", lambda: 1.0)
    again = workflow.bundle(made.artifact, tmp_path / "device.tar.gz", exports=made.exports, dataset=made.dataset)
    assert again.path.read_bytes() == made.bundled.path.read_bytes()
    assert again.sha256 == made.bundled.sha256 == hashlib.sha256(again.path.read_bytes()).hexdigest()
    assert again.bytes == again.path.stat().st_size and [file.name for file in tmp_path.iterdir()] == ["device.tar.gz"]


def test_nothing_of_the_machine_is_in_the_archive(made: Made) -> None:
    packed = made.bundled.path.read_bytes()
    assert packed[3] == 0 and packed[4:8] == bytes(4), "no file name and no time in the header"
    with tarfile.open(made.bundled.path) as tar:
        members = tar.getmembers()
    assert [member.name for member in members] == [f"device/{name}" for name in made.bundled.files]
    for member in members:
        assert (member.mtime, member.uid, member.gid, member.uname, member.gname) == (0, 0, 0, "", "")
        assert member.isfile() and member.mode == (0o755 if member.name == "device/run.py" else 0o644)
    content = gzip.decompress(packed)
    for trace in (str(made.artifact.parent), sys.prefix, str(Path.home())):
        assert trace.encode() not in content


@pytest.mark.parametrize(
    "name",
    [
        "README.md",
        "bundle.json",
        "example.ppm",
        "model.onnx",
        "model.int8.onnx",
        "on_device/images.py",
        "on_device/runtimes/onnxruntime.py",
        "run.py",
        "test/images.npy",
        "test/model.int8.onnx.npy",
    ],
)
def test_an_altered_or_missing_file_is_refused(name: str, made: Made, unpacked: Path) -> None:
    assert {name, "SHA256SUMS"} <= set(made.bundled.files) and len(made.bundled.files) == 17
    path = unpacked / name
    data = path.read_bytes()
    path.write_bytes(data + b"\n" if name.endswith(".py") else data[:-1] + bytes([data[-1] ^ 1]))
    done = run(unpacked, "classify", str(unpacked / "example.ppm"))
    assert done.returncode == 1 and done.stdout == "" and f"{name} was altered or damaged" in done.stderr
    if not name.endswith(".py"):
        path.unlink()
        done = run(unpacked, "test")
        assert done.returncode == 1 and done.stdout == "" and f"{name} is missing" in done.stderr


def test_sums_that_are_cut_short_or_gone_are_refused(unpacked: Path) -> None:
    sums = unpacked / "SHA256SUMS"
    lines = sums.read_text().splitlines(keepends=True)
    for kept, said in (([], "damaged"), (["nonsense\n"], "damaged"), (lines[:3], "has no checksum")):
        sums.write_text("".join(kept))
        done = run(unpacked, "test")
        assert done.returncode == 1 and said in done.stderr, kept
    sums.unlink()
    assert "SHA256SUMS is missing" in run(unpacked, "test").stderr


def test_the_usual_tool_checks_it_too(unpacked: Path) -> None:
    if shutil.which("sha256sum") is None:
        pytest.skip("no sha256sum here")
    subprocess.run(["sha256sum", "--strict", "-c", "SHA256SUMS"], cwd=unpacked, check=True, capture_output=True)


def run_plainly(folder: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """As somebody on the device runs it, with the folder of the program on Python's path."""
    settings = {**{name: value for name, value in os.environ.items() if name != "PYTHONPATH"}, **environment}
    command = [sys.executable, str(folder / "run.py"), *words]
    return subprocess.run(command, capture_output=True, text=True, cwd=folder, env=settings, check=False)


@pytest.mark.parametrize(
    "name",
    [
        *("numpy.py", "numpy/__init__.py", "hashlib.py", "__future__.py", "onnxruntime.pyc", "PIL.py"),
        *("on_device/main/__init__.py", "on_device/runtimes/onnxruntime/__init__.py"),
        f"on_device/__pycache__/main.{sys.implementation.cache_tag}.pyc",
    ],
)
def test_no_module_runs_that_was_not_checked(name: str, unpacked: Path) -> None:
    marker, stray = unpacked.parent / "it ran", unpacked / name
    source = unpacked.parent / "stray.py"
    source.write_text(f"open({str(marker)!r}, 'w').close()\n")
    stray.parent.mkdir(exist_ok=True)
    if stray.suffix == ".pyc":  # of the kind that Python does not compare with its source
        py_compile.compile(str(source), str(stray), invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH)
    else:
        shutil.copy(source, stray)
    for environment in ({}, {"PYTHONPATH": str(unpacked)}):
        done = run_plainly(unpacked, "test", **environment)
        assert done.returncode == 1 and done.stdout == "" and not marker.exists()
        assert done.stderr.startswith(f"run.py: {name} is not of this bundle") and len(done.stderr.splitlines()) == 1
    with pytest.raises(ExportError, match="not of this bundle"):
        check_bundle(unpacked)


def test_an_altered_program_is_refused_before_it_runs(unpacked: Path) -> None:
    marker = unpacked.parent / "it ran"
    for name in ("on_device/files.py", "on_device/runtimes/onnxruntime.py"):
        content = (unpacked / name).read_text()
        (unpacked / name).write_text(
            content.replace("import annotations", f"import annotations\nopen({str(marker)!r}, 'w')")
        )
        done = run_plainly(unpacked, "test")
        assert done.returncode == 1 and f"{name} was altered" in done.stderr and not marker.exists()
        (unpacked / name).write_text(content)
    assert run_plainly(unpacked, "test").returncode == 0


def test_a_machine_without_numpy_is_told_in_one_line(unpacked: Path) -> None:
    blocked = f"import sys; sys.modules['numpy'] = None\n{ALONE}"
    command = [sys.executable, "-I", "-c", blocked, str(unpacked / "run.py"), "test"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and done.stderr == "run.py: this machine has no numpy. Try: pip install numpy\n"


def test_weights_that_were_kept_are_not_called_untrained(made: Made, tmp_path: Path) -> None:
    """Of ``prune --trained`` without tuning: the artifact has no training of its own."""
    source, pruning = artifact.Artifact.open(made.artifact).source, Pruning(trained=True, rectify="keep")
    workflow.prune_artifact(source, tmp_path / "a", budget=Budget(params="2x"), pruning=pruning, base=made.artifact)
    exports = workflow.export_artifact(tmp_path / "a", dataset=made.dataset)["pruned"]
    workflow.bundle(tmp_path / "a", tmp_path / "b.tar.gz", exports=exports, dataset=made.dataset)
    with tarfile.open(tmp_path / "b.tar.gz") as tar:
        tar.extractall(tmp_path)
    said = (tmp_path / "b" / "README.md").read_text()
    assert "kept from the trained network, not tuned" in said and "not trained" not in said and "params" in said


def test_files_of_the_user_beside_it_do_not_matter(unpacked: Path) -> None:
    (unpacked / "holiday.png").write_bytes(b"no picture")
    packages = unpacked / ".venv" / "lib" / "python3" / "site-packages"
    packages.mkdir(parents=True)
    (packages / "numpy.py").write_text("1 / 0")
    (unpacked / "results").mkdir()
    (unpacked / "results" / "first.json").write_text("{}")
    assert run_plainly(unpacked, "test").returncode == 0
    assert not list(unpacked.rglob("__pycache__")), "no bytecode is left behind"
    assert answer(unpacked, "test")["passed"]
    assert "is not an image" in run(unpacked, "classify", str(unpacked / "holiday.png")).stderr
    assert "no file" in run(unpacked, "classify", str(unpacked / "nothing.png")).stderr


def sign(folder: Path) -> None:
    """Make the checksums fit what is there, as somebody does who changes a bundle on purpose."""
    about = json.loads((folder / "bundle.json").read_text())
    about["sizes"] = {name: (folder / name).stat().st_size for name in about["sizes"]}
    (folder / "bundle.json").write_text(json.dumps(about))
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "SHA256SUMS")
    sums = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(folder)}\n" for path in files]
    (folder / "SHA256SUMS").write_text("".join(sums))


@pytest.mark.parametrize(("model", "wrong"), [("model.onnx", 0.01), ("model.onnx", np.nan), ("model.int8.onnx", 0.1)])
def test_a_machine_that_computes_something_else_fails_the_test(model: str, wrong: float, unpacked: Path) -> None:
    stored = unpacked / "test" / f"{model}.npy"
    answers = np.load(stored)
    answers[5, 2] += wrong * abs(answers).max()
    np.save(stored, answers)
    sign(unpacked)
    done = run(unpacked, "test", "--json")
    assert done.returncode == 1 and json.loads(done.stdout.replace("NaN", "9"))["passed"] is False
    lines = run(unpacked, "test").stdout.splitlines()
    assert [line.split()[0] for line in lines if model in line] == ["FAILED"]
    assert [line.split()[0] for line in lines if model not in line] == ["passed"]


def test_a_newer_bundle_and_an_unknown_model_are_reported(unpacked: Path) -> None:
    assert "There are: model.onnx" in run(unpacked, "time", "--model", "other.onnx").stderr
    about = json.loads((unpacked / "bundle.json").read_text())
    (unpacked / "bundle.json").write_text(json.dumps({**about, "format_version": 2}))
    sign(unpacked)
    assert "reads version 1" in run(unpacked, "test").stderr
    assert run(unpacked, "classify").returncode == 2 and run(unpacked, "test", "--threads", "0").returncode == 2


@pytest.mark.parametrize(
    "words",
    [
        "classify --model model.onnx IMAGE --top 1",
        "classify --json --top 1 IMAGE --model model.onnx",
        "--top 1 classify IMAGE --threads 2",
        "classify IMAGE --top 1 IMAGE",
    ],
)
def test_options_of_the_runner_stand_anywhere(words: str, unpacked: Path) -> None:
    image = str(unpacked / "example.ppm")
    images = answer(unpacked, *words.replace("IMAGE", image).split())["images"]
    assert [len(labels) for labels in images.values()] == [1] and set(images) == {image}


@pytest.mark.parametrize(
    ("words", "ignored"),
    [
        ("test nosuchfile.png --top 5 --rounds 3", "test takes no images, no --top, no --rounds"),
        ("time --top 3", "time takes no --top"),
        ("classify a.png --rounds 100", "classify takes no --rounds"),
        ("time --rounds 0", "1 at least"),
        ("classify --top 1", "at least one image"),
        ("train IMAGE", "invalid choice"),
    ],
)
def test_options_that_the_runner_would_ignore_are_errors(words: str, ignored: str, unpacked: Path) -> None:
    done = run(unpacked, *words.split())
    assert done.returncode == 2 and done.stdout == "" and ignored in done.stderr


def test_a_runtime_that_is_missing_or_too_old_is_named(unpacked: Path) -> None:
    missing = "import sys; sys.modules['onnxruntime'] = None\n" + ALONE
    command = [sys.executable, "-I", "-c", missing, str(unpacked / "run.py"), "test"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and done.stdout == "" and len(done.stderr.splitlines()) == 1
    assert "ONNX Runtime, which is not installed. Try: pip install onnxruntime" in done.stderr
    onnx = pytest.importorskip("onnx")
    model = onnx.load(unpacked / "model.onnx")
    model.opset_import[0].version = 999  # what a runtime older than the file sees
    onnx.save(model, unpacked / "model.onnx")
    sign(unpacked)
    done = run(unpacked, "time")
    assert done.returncode == 1 and done.stdout == "" and len(done.stderr.splitlines()) == 1
    assert "cannot load model.onnx" in done.stderr and "Try a newer one" in done.stderr


def test_the_runner_is_python_3_9_and_needs_only_numpy_at_the_top() -> None:
    for name, source in device_program(runnable().values()).items():
        tree = ast.parse(source, feature_version=(3, 9))
        names = [alias.name for node in tree.body if isinstance(node, ast.Import) for alias in node.names]
        names += [node.module or "" for node in tree.body if isinstance(node, ast.ImportFrom) and not node.level]
        assert {name.split(".")[0] for name in names} - sys.stdlib_module_names <= {"numpy", "on_device"}, name
        assert b"reconvene.deploy" not in source


def test_what_lies_in_it_says_how_it_was_made(made: Made, unpacked: Path) -> None:
    about = json.loads((unpacked / "bundle.json").read_text())
    assert about["labels"] == list(made.dataset.classes) and about["input"]["mean"] == list(made.dataset.mean)
    training = artifact.Artifact.open(made.artifact).training
    text = (unpacked / "README.md").read_text()
    assert f"{training.score:.2%}" in text and "16 test images of digits" in text and "not calibrated" in text


def test_a_model_for_another_runtime_runs_in_it(made: Made, tmp_path: Path) -> None:
    pytest.importorskip("openvino"), pytest.importorskip("nncf")
    model = artifact.load(made.artifact)
    other = export_file(model, tmp_path, format="openvino", example_inputs=torch.randn(2, 3, 32, 32))
    workflow.bundle(made.artifact, tmp_path / "b.tgz", exports=[other, made.exports[0]], dataset=made.dataset)
    with tarfile.open(tmp_path / "b.tgz") as tar:
        tar.extractall(tmp_path)  # our own archive; Python 3.11.2 takes no filter
    assert {"model.xml", "model.bin", "model.onnx"} <= {path.name for path in (tmp_path / "b").iterdir()}
    assert "pip install numpy openvino onnxruntime" in (tmp_path / "b" / "README.md").read_text()
    assert answer(tmp_path / "b", "test")["passed"]
    stored = [np.load(tmp_path / "b" / "test" / f"{name}.npy") for name in ("model.xml", "model.onnx")]
    np.testing.assert_allclose(*stored, rtol=1e-3, atol=1e-4)
    (tmp_path / "b" / "model.bin").write_bytes(b"0")
    assert "model.bin was altered" in run(tmp_path / "b", "time").stderr


def test_without_data_noise_is_tested_and_reported(made: Made, tmp_path: Path) -> None:
    bundled = workflow.bundle(made.artifact, tmp_path / "b.tgz", exports=made.exports, seed=3)
    with tarfile.open(bundled.path) as tar:
        tar.extractall(tmp_path)  # our own archive; Python 3.11.2 takes no filter
    assert json.loads((tmp_path / "b" / "bundle.json").read_text())["test"]["from"] == "noise, seed 3"
    assert answer(tmp_path / "b", "test")["passed"]


def test_what_cannot_be_bundled_says_why(made: Made, tmp_path: Path) -> None:
    def bundle(folder: Path = made.artifact, name: str = "b.tar.gz", **more: Any) -> None:
        workflow.bundle(folder, tmp_path / name, **{"exports": made.exports, "dataset": made.dataset, **more})

    untrained = tmp_path / "untrained"
    artifact.save(ModelSource("resnet20", {"width": 0.25}, (3, 32, 32)).build(), untrained)
    with pytest.raises(ArtifactError, match="--data"):
        bundle(untrained, dataset=None)
    with pytest.raises(ExportError, match=r"NAME\.tar\.gz"):
        bundle(name="b.zip")
    with pytest.raises(ExportError, match=r"run\.py can run"):
        bundle(exports=[dataclasses.replace(made.exports[0], format="other")])
    with pytest.raises(DataError, match="1x8x8, classification, 10 classes"):
        bundle(dataset=load_data("digits", input_shape=(1, 8, 8), limit=60))
    way = dataclasses.replace(made.dataset.preprocessing, classes=("a", "b"))
    images = made.dataset.test.images[:2].numpy()
    with pytest.raises(ExportError, match=r"\[2, 10\]; to classify images, a bundle needs \[2, 2\]"):
        write_bundle(
            tmp_path / "b.tgz", made.exports, preprocessing=way, images=images, images_from="", model="", results={}
        )
    assert [path.name for path in tmp_path.iterdir()] == ["untrained"]


class TwoHeads(torch.nn.Module):
    """Scores and features, in a tuple or by name."""

    def __init__(self, *, by_name: bool) -> None:
        super().__init__()
        self.by_name, self.head = by_name, torch.nn.Linear(3, 10)

    def forward(self, x: torch.Tensor) -> Any:
        features = x.mean((2, 3))
        scores = self.head(features)
        return {"logits": scores, "features": features} if self.by_name else (scores, features)


@pytest.mark.parametrize("format_name", ["onnx", "openvino"])
@pytest.mark.parametrize("by_name", [False, True])
def test_a_model_of_several_outputs_is_not_bundled(format_name: str, by_name: bool, made: Made, tmp_path: Path) -> None:
    pytest.importorskip(format_name)
    model, example = TwoHeads(by_name=by_name), torch.randn(1, 3, 32, 32)
    exported = export_file(model, tmp_path, format=format_name, example_inputs=example)
    with pytest.raises(ExportError, match=r"has 2 outputs \(\w+, \w+\), and a bundle needs one image"):
        workflow.bundle(made.artifact, tmp_path / "b.tgz", exports=[exported], dataset=made.dataset)
    assert not (tmp_path / "b.tgz").exists()


@pytest.mark.parametrize("format_name", ["onnx", "openvino"])
def test_a_file_that_does_not_take_the_images_is_an_error_in_one_line(
    format_name: str, made: Made, tmp_path: Path
) -> None:
    pytest.importorskip(format_name)
    flat = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 16 * 16, 10))
    exported = export_file(flat, tmp_path, format=format_name, example_inputs=torch.randn(1, 3, 16, 16))
    with pytest.raises(ExportError, match=r"does not run model\.\w+ on \(1, 3, 32, 32\)") as refusal:
        workflow.bundle(made.artifact, tmp_path / "b.tgz", exports=[exported], dataset=made.dataset)
    assert len(str(refusal.value).splitlines()) == 1


def test_a_model_that_fails_on_the_device_is_an_error_in_one_line(made: Made, unpacked: Path) -> None:
    flat = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 16 * 16, 10))
    exported = export_file(flat, unpacked.parent, example_inputs=torch.randn(1, 3, 16, 16))
    shutil.copy(exported.path, unpacked / "model.onnx")
    sign(unpacked)
    for words in (["test"], ["time"], ["classify", str(unpacked / "example.ppm")]):
        done = run(unpacked, *words)
        assert done.returncode == 1 and done.stdout == ""
        assert "run.py: ONNX Runtime does not run model.onnx on (1, 3, 32, 32): " in done.stderr
        assert "Traceback" not in done.stderr


@pytest.mark.parametrize("name", ["n" * 160, "n" * 240, "Gerät"])
def test_an_archive_has_any_name_that_a_file_has(name: str, tmp_path: Path) -> None:
    files = {"run.py": b"pass", "on_device/runtimes/onnxruntime.py": b""}
    archive = pack(files, name)
    assert archive == pack(files, name)
    (tmp_path / "b.tgz").write_bytes(archive)
    with tarfile.open(tmp_path / "b.tgz") as tar:
        assert {entry.name for entry in tar.getmembers()} == {f"{name}/{file}" for file in files}


def test_other_formats_are_left_out_and_reported(made: Made, tmp_path: Path) -> None:
    other: Any = SimpleNamespace(path=Path("model.xyz"), format="xyz")
    bundled = workflow.bundle(made.artifact, tmp_path / "b.tgz", exports=[*made.exports, other])
    assert bundled.left_out == ("model.xyz",) and "not in it" in str(bundled)


@pytest.mark.slow
def test_a_bare_environment_is_enough(unpacked: Path, tmp_path: Path) -> None:
    """Only numpy and onnxruntime, with what they bring; no Pillow, no PyTorch, none of our packages."""
    venv.create(tmp_path / "bare", with_pip=True)
    python = tmp_path / "bare" / "bin" / "python"
    install = [python, "-m", "pip", "install", "--quiet", "numpy", "onnxruntime"]
    done = subprocess.run(install, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"pip could not install numpy and onnxruntime: {done.stderr.strip().splitlines()[-1:]}")
    for package in ("torch", "PIL", "reconvene"):
        assert (
            subprocess.run([python, "-I", "-c", f"import {package}"], capture_output=True, check=False).returncode == 1
        )
    assert answer_of(python, unpacked, "test")["models"]["model.onnx"]["same_label"] == 16
    (unpacked / "a.png").write_bytes(PNG)
    assert answer_of(python, unpacked, "classify", str(unpacked / "a.png"))["images"]


@pytest.mark.slow
def test_it_answers_the_same_on_arm(unpacked: Path, tmp_path: Path) -> None:
    """Under user-mode emulation: what a processor of another kind computes, not how fast it does."""
    for tool in ("qemu-aarch64-static", "apt-get", "dpkg-deb"):
        if shutil.which(tool) is None:
            pytest.skip(f"no {tool} here (Debian: apt-get install qemu-user-static)")
    room = Path(os.environ.get("RECONVENE_ARM_SYSROOT") or tmp_path / "arm").resolve()
    if not (room / "root" / "proc" / "cpuinfo").exists():
        script = TESTS / "support" / "arm_sysroot.sh"
        done = subprocess.run(["sh", script, room, sys.executable], capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"no arm64 system could be put together: {done.stderr.strip().splitlines()[-1:]}")
    places = {"PYTHONHOME": room / "root" / "usr", "PYTHONPATH": room / "site"}
    # A Raspberry Pi 4's processor: qemu's own choice has extensions that no device of this class has.
    emulator = ["qemu-aarch64-static", "-cpu", "cortex-a72", "-L", room / "root"]
    emulator += [*(f for k, v in places.items() for f in ("-E", f"{k}={v}"))]

    def on_arm(*words: str) -> Any:
        command = [*emulator, room / "root" / "usr" / "bin" / "python3", unpacked / "run.py", *words, "--json"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    tested = on_arm("test")
    assert tested["passed"] and tested["models"]["model.onnx"]["same_label"] == 16
    assert tested["models"]["model.int8.onnx"]["relative_error"] < 0.03
    example = str(unpacked / "example.ppm")
    assert on_arm("classify", example)["images"][example][0] == pytest.approx(
        answer(unpacked, "classify", example)["images"][example][0], abs=1e-4
    )


PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de0000000c49444154789c63f8cfc0000003010100"
    "c9fe92ef0000000049454e44ae426082"
)


def answer_of(python: Path, folder: Path, *words: str) -> Any:
    done = run(folder, *words, "--json", python=str(python))
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
