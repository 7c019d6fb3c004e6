"""Plans, profiles and bundles that are no files, lie elsewhere or never end: refused at once, with an error of ours."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import reconvene as rc
from reconvene import devices
from reconvene.deploy import check_bundle
from reconvene.deploy.bundle import device_program, runnable
from reconvene.errors import DeviceError, ExportError, PlanError, ReconveneError
from support.signed_artifacts import sign_bundle, tiny_bundle

WAIT = 30.0
"""Seconds after which a read that must not happen has happened."""


def put(path: Path, kind: str) -> None:
    path.unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "folder":
        path.mkdir()
    elif kind == "circle":
        path.symlink_to(path)
    elif kind == "terabyte":
        with path.open("wb") as file:
            file.truncate(2**40)
    else:
        path.write_text('{"a":' * 2000 + "1" + "}" * 2000)


KINDS = ("pipe", "device", "folder", "circle", "terabyte", "nested")


@pytest.mark.timeout(WAIT)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("read", "error"), [(rc.Plan.load, PlanError), (devices.find, DeviceError)])
def test_plans_and_profiles_are_regular_files_that_end(
    read: Callable[[Any], Any], error: type[ReconveneError], kind: str, tmp_path: Path
) -> None:
    path = tmp_path / "x.json"
    put(path, kind)
    with pytest.raises(error, match=r"x\.json"):
        read(path)


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    about = tiny_bundle(tmp_path / "b")
    sign_bundle(tmp_path / "b", json.dumps(about).encode())
    return tmp_path / "b"


def on_the_device(folder: Path) -> str:
    """What the bundle's own runner says of it, in an interpreter that has nothing of ours."""
    program = folder.parent / "program"
    for name, source in device_program(runnable().values()).items():
        (program / name).parent.mkdir(parents=True, exist_ok=True)
        (program / name).write_bytes(source)
    check = "import sys; sys.path.insert(0, sys.argv[1]); from pathlib import Path\n"
    check += "from on_device.main import Bundle, Refused\n"
    check += "try: Bundle(Path(sys.argv[2]))\nexcept Refused as error: print(error)"
    command = [sys.executable, "-I", "-c", check, str(program), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=WAIT)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_a_whole_bundle_passes_here_and_on_the_device(bundle: Path) -> None:
    assert check_bundle(bundle).labels == ("a", "b") and on_the_device(bundle) == ""


@pytest.mark.timeout(2 * WAIT)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["m.onnx", "bundle.json", "SHA256SUMS"])
def test_a_bundle_is_made_of_regular_files(name: str, kind: str, bundle: Path) -> None:
    put(bundle / name, kind)
    with pytest.raises(ExportError, match=name):
        check_bundle(bundle)
    if kind != "terabyte":  # one interpreter for a case is enough of them
        assert name in on_the_device(bundle)


@pytest.mark.parametrize(
    "name", ["/etc/hostname", "../secret", "test/../../secret", "./m.onnx", "a//b", "C:\\secret", "C:secret", ".", "a/"]
)
def test_the_checksums_of_a_bundle_name_files_inside_it_only(name: str, bundle: Path) -> None:
    (bundle.parent / "secret").write_text("not yours")
    sign_bundle(bundle, (bundle / "bundle.json").read_bytes(), {name: "0" * 64})
    with pytest.raises(ExportError, match="not a plain file inside the bundle"):
        check_bundle(bundle)
    if name == "../secret":
        assert "not a plain file inside the bundle" in on_the_device(bundle)


def test_a_link_out_of_a_bundle_is_refused_although_its_checksum_fits(bundle: Path) -> None:
    (bundle / "m.onnx").rename(bundle.parent / "secret")
    (bundle / "m.onnx").symlink_to(bundle.parent / "secret")
    with pytest.raises(ExportError, match="leads out of the bundle"):
        check_bundle(bundle)
    assert "leads out of the bundle" in on_the_device(bundle)


def test_a_model_that_is_not_among_the_checked_files_is_refused(bundle: Path) -> None:
    about = json.loads((bundle / "bundle.json").read_text())
    about["models"][0]["file"] = "other.onnx"
    sign_bundle(bundle, json.dumps(about).encode())
    with pytest.raises(ExportError, match="its file among its files"):
        check_bundle(bundle)


def test_a_size_is_compared_before_anything_is_read(bundle: Path) -> None:
    about = json.loads((bundle / "bundle.json").read_text())
    sign_bundle(bundle, json.dumps({**about, "sizes": {**about["sizes"], "m.onnx": 6}}).encode())
    with pytest.raises(ExportError, match=r"m\.onnx was altered"):
        check_bundle(bundle)


def test_bundles_without_sizes_are_older_and_pass(bundle: Path) -> None:
    about = json.loads((bundle / "bundle.json").read_text())
    del about["sizes"]
    sign_bundle(bundle, json.dumps(about).encode())
    assert check_bundle(bundle).sizes is None
