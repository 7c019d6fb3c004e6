"""Files of somebody else, damaged at random and signed again: they are read, or refused with an error of ours."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import random
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import reconvene as rc
from reconvene import artifact, devices
from reconvene.artifact import ExportRecord, QuantisedTraining, Recalibrated, Teacher, Timings, Training
from reconvene.data import Preprocessing
from reconvene.deploy import check_bundle
from reconvene.deploy.on_device.files import Files, Refused
from reconvene.devices.on_device.layer_spec import LayerJob
from reconvene.errors import ReconveneError
from support import device_fakes as fakes
from support.mutations import mutated, text_of
from support.signed_artifacts import MANIFEST, PLAN, canonical, describe, sign_bundle, tiny_bundle

MUTATIONS = 250
SECONDS = 30.0
"""That no single file may take, on a busy machine; most take some milliseconds."""


class Net(nn.Module):
    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(1, width, 3), nn.Conv2d(width, width, 3)
        self.norm, self.head = nn.BatchNorm2d(width), nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.second(self.first(x).relu())).relu().mean((2, 3)))


@pytest.fixture(scope="module")
def pruned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An artifact with every section there is."""
    folder = tmp_path_factory.mktemp("mutations") / "a"
    torch.manual_seed(0)
    source = {"address": f"{__name__}:Net", "args": {"width": 8}, "input_shape": [1, 8, 8]}
    small = rc.prune(Net(), torch.randn(1, 1, 8, 8), rc.Budget(params="2x"), "magnitude", round_to=1)
    asked = {"lr": 0.1, "distillation": None, "momentum": [0.9, 0.99]}
    training = Training(2, "digits", {"accuracy": 0.5}, 1.5, asked, {"a": 0.5}, examples=10)
    training = dataclasses.replace(
        training,
        teacher=Teacher("resnet20", 0.75),
        quantised=QuantisedTraining(1, 0.5, 0.5, {"lr": 0.01}),
        recalibration=Recalibrated(2, 10, None, 0.5),
        warning="one class",
    )
    sections = {
        "pruning": artifact.PruningRecord(rectify="reinit", budget={"params": "2x"}, spread={"first": 1.0}),
        "training": training,
        "preprocessing": Preprocessing((1, 8, 8), (0.5,), (0.25,), ("a", "b", "c")),
        "exports": [ExportRecord("model.onnx", 10, verification={"rows": [{"error": 1e-6}]})],
        "assessment": {"pruned": {"accuracy": 0.5, "corruptions": {"fog": [0.1, 0.2]}}},
        "ranges": {"first": [0.1, 3]},
        "mine": {"note": [1, 2]},
    }
    artifact.save(small, folder, source=source, extra=sections, timings=Timings({"plan": 0.5}, 2.0))
    return folder


@pytest.fixture
def folder(pruned: Path, tmp_path: Path) -> Path:
    shutil.copytree(pruned, tmp_path / "a")
    return tmp_path / "a"


def refused_or_read(
    act: Callable[[], Any], change: str, errors: tuple[type[Exception], ...] = (ReconveneError,)
) -> bool:
    """Whether it was refused. Fails for any other error, and where it takes too long."""
    began = time.monotonic()
    try:
        act()
    except errors as error:
        assert len(str(error)) < 2000, f"{change}: an error is read by a person"
        return True
    except BaseException as error:
        raise AssertionError(f"{change}: {type(error).__name__}: {error}") from error
    finally:
        assert time.monotonic() - began < SECONDS, change
    return False


def each_refused(data: Any, read: Callable[[Any], Any], seed: int, **options: Any) -> int:
    random_state = random.Random(seed)
    changes = (mutated(data, random_state) for _ in range(MUTATIONS))
    return sum(refused_or_read(lambda changed=changed: read(changed), change, **options) for change, changed in changes)


def signed(data: Any) -> bytes:
    if not isinstance(data, dict):
        return text_of(data)
    unsigned = {key: value for key, value in data.items() if key != "checksum"}
    digest = hashlib.sha256(canonical(unsigned)).hexdigest()
    return text_of({**unsigned, "checksum": digest}, lambda value: canonical(value).decode())


def test_a_damaged_manifest_is_refused_or_read(folder: Path) -> None:
    def read(data: Any) -> None:
        (folder / MANIFEST).write_bytes(signed(data))
        rc.load(folder, allow_import=True)
        stored = artifact.Artifact.open(folder)
        assert stored.plan is not None and str(stored.timed_training)

    assert each_refused(json.loads((folder / MANIFEST).read_text()), read, seed=0) > MUTATIONS / 2


def test_a_damaged_plan_is_refused_or_read(folder: Path, tmp_path: Path) -> None:
    manifest = json.loads((folder / MANIFEST).read_text())

    def read(data: Any) -> None:
        text = text_of(data)
        (tmp_path / "plan.json").write_bytes(text)
        (folder / PLAN).write_bytes(text)
        (folder / MANIFEST).write_bytes(signed({**manifest, "files": {**manifest["files"], PLAN: describe(text)}}))
        assert str(rc.Plan.load(tmp_path / "plan.json"))
        rc.load(folder, allow_import=True)

    assert each_refused(json.loads((folder / PLAN).read_text()), read, seed=1) > MUTATIONS / 2


def test_a_damaged_profile_is_refused_or_read(tmp_path: Path) -> None:
    conv = {"kind": "conv", "kernel": [3, 3], "stride": [1, 1], "pads": [1, 1, 1, 1], "dilation": [1, 1], "groups": 1}
    layers: list[dict[str, Any]] = [
        {**conv, "spatial": [8, 8], "batch": 1, "tail": ["relu"], "first": False, "in": 16, "out": 16},
        {"kind": "linear", "batch": 1, "spatial": [], "groups": 1, "tail": [], "in": 16, "out": 16},
        {"kind": "matmul", "batch": 1, "spatial": [2, 4, 8, 4], "vary": "k", "groups": 1, "in": 8, "out": 1},
        {"kind": "op", "op": "softmax", "batch": 1, "spatial": [4], "axis": -1, "groups": 1, "in": 8, "out": 1},
    ]
    jobs = [LayerJob.from_dict(layer) for layer in layers]
    values = json.loads(fakes.profile(jobs, far=1e-11).to_json())
    values["networks"] = [{"layers": [[0, 16, 16], [1, 16, 16]], "seconds": 1e-3}]
    values["whole"] = [{"seconds": 1e-3, "near": 9e-4, "far": 1e-5, "weights": 1000.0}]

    def read(data: Any) -> None:
        (tmp_path / "p.json").write_bytes(text_of(data))
        profile = devices.find(tmp_path / "p.json")
        assert str(profile) and profile.to_json() and profile.tables(jobs[:1])

    assert each_refused(values, read, seed=2) > MUTATIONS / 2


def test_a_damaged_bundle_is_refused_or_read_here_and_on_the_device(tmp_path: Path) -> None:
    about = tiny_bundle(tmp_path / "b")
    sign_bundle(tmp_path / "b", json.dumps(about).encode())
    assert check_bundle(tmp_path / "b").model == "resnet20"
    by_device: list[bool] = []

    def read(data: Any) -> None:
        sign_bundle(tmp_path / "b", text_of(data))
        by_device.append(refused_or_read(lambda: Files(tmp_path / "b"), "on the device", errors=(Refused,)))
        check_bundle(tmp_path / "b")

    refused = each_refused(about, read, seed=3)
    assert refused > MUTATIONS / 3 and len(by_device) == MUTATIONS and sum(by_device) > MUTATIONS / 4
