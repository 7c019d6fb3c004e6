"""Optional packages: every attribute that our code takes from one exists in the version that is installed."""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from support import optional_surface
from support.optional_surface import Use, merged, missing, uses

QUICK = {"PIL", "datasets", "ethosu", "huggingface_hub", "ncnn", "nir", "nncf", "onnx", "onnx_ir", "onnxruntime"}
QUICK |= {"openvino", "pandas", "pnnx", "pyarrow", "ray", "scipy", "skimage", "sklearn", "tenseal", "timm"}
QUICK |= {"torch_pruning", "torchvision", "transformers", "yaml"}
SLOW = {
    "ai_edge_litert",
    "executorch",
    "flatbuffers",
    "litert_torch",
    "monai",
    "segmentation_models_pytorch",
    "torchao",
}
"""Import for many seconds."""


def test_every_optional_package_is_checked() -> None:
    assert {package for use in uses() for package in use.packages} == QUICK | SLOW


@pytest.mark.parametrize("packages", [QUICK, pytest.param(SLOW, marks=pytest.mark.slow)], ids=["quick", "slow"])
def test_what_our_code_takes_from_optional_packages_is_there(packages: set[str]) -> None:
    installed = sorted(package for package in packages if importlib.util.find_spec(package) is not None)
    if not merged(set(installed)):
        pytest.skip(f"not installed: {', '.join(sorted(packages))}")
    script = [sys.executable, optional_surface.__file__, *installed]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(script, capture_output=True, text=True, check=False, timeout=280, env=environment)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    assert report and {where: lost for where, lost in report.items() if lost} == {}


def test_a_part_that_is_loaded_lazily_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The check itself: a submodule that nobody imports is no attribute of its package, and a call's result is."""
    (tmp_path / "lazy_package").mkdir()
    (tmp_path / "lazy_package" / "__init__.py").write_text("there = 1")
    (tmp_path / "lazy_package" / "part.py").write_text("class Thing: ...")
    monkeypatch.syspath_prepend(str(tmp_path))
    code = "def f():\n    p = import_module('lazy_package')\n    return p.part.Thing, p.there, p.absent\n"
    (use,) = optional_surface._of_file("x.py", ast.parse(code))
    lost = {entry.partition(":")[0] for entry in missing(use)}
    assert lost == {"lazy_package.absent", "lazy_package.part.Thing", "lazy_package.part"}
    assert missing(Use("", ["lazy_package.part"], {"lazy_package.part": ["Thing"]})) == []
    assert missing(Use("", ["lazy_package.other"])) != []


def test_the_collection_finds_each_way_to_import() -> None:
    """An import in a function, a name that stands for a module, a function that returns one, and a parameter."""
    by_place = {use.where: use for use in uses()}
    assert "load_digits" in by_place["data/digits.py:read_digits"].attributes["sklearn.datasets"]
    assert "CommitOperationAdd" in by_place["artifact/hub.py:push_to_hub"].attributes["huggingface_hub"]
    assert "_pybind_state" in by_place["deploy/runtimes/onnx/arena.py:main"].attributes["onnxruntime.capi"]
    assert "DecompressionBombError" in by_place["data/decode.py:_trouble"].attributes["PIL.Image"]
    assert "HfHubHTTPError.__bases__" in by_place["artifact/hub.py:_trouble"].attributes["huggingface_hub.errors"]
