"""The probe of an artifact: a model that does not compute what was saved is refused, whatever made it differ."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

import reconvene as rc
from reconvene import artifact
from reconvene.artifact import MANIFEST, WEIGHTS
from reconvene.artifact.probe import ProbeInput
from reconvene.errors import ArtifactError
from reconvene.models import ModelSource
from reconvene.training.checkpoint import TrainingState, all_tensors, load_checkpoint, restore, save_checkpoint
from support.signed_artifacts import change_manifest, put_file

TINY = {"address": "resnet20", "args": {"width": 0.25}, "input_shape": [3, 32, 32], "seed": 1}


class Migrating(nn.Module):
    """Doubles the scale of weights that were saved before its version 3, as modules do that changed their meaning."""

    _version = 3

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.full((4,), 2.0))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, local_metadata: dict[str, Any], *rest: Any
    ) -> None:
        if (local_metadata.get("version") or 1) < 3:
            state_dict[prefix + "scale"] = state_dict[prefix + "scale"] * 2
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *rest)


class Holder(nn.Module):
    """A migrating module within another, and an activation that is an attribute."""

    factor = 1.0

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(3, 4), Migrating())
        self.act = torch.relu
        self.register_buffer("calls", torch.zeros((), dtype=torch.long))
        self.forwards = 0

    def forward(self, x: Tensor) -> Tensor:
        self.forwards += 1
        self.calls += 1
        random.random(), np.random.rand(), torch.rand(1)
        return self.act(self.inner(x) + 1) * self.factor


def source(name: str, *shape: int) -> dict[str, Any]:
    return {"address": f"{__name__}:{name}", "input_shape": list(shape)} if shape else {"address": f"{__name__}:{name}"}


def load(folder: Path) -> nn.Module:
    return artifact.load(folder, allow_import=True)


def change_weights(folder: Path, change: Callable[[Tensor], Tensor]) -> None:
    state = safetensors.torch.load((folder / WEIGHTS).read_bytes())
    put_file(folder, WEIGHTS, safetensors.torch.save({k: change(v) for k, v in state.items()}))


def test_a_torchvision_model_that_refuses_weights_without_a_version_comes_back(tmp_path: Path) -> None:
    models = pytest.importorskip("torchvision.models")
    model = models.mnasnet0_5(num_classes=10)
    x = torch.randn(2, 3, 32, 32)
    small = rc.prune(model, x, budget=rc.Budget(macs="2x"), criterion="magnitude")
    rc.save(
        small,
        tmp_path / "a",
        source={"address": "torchvision:mnasnet0_5", "args": {"num_classes": 10}, "input_shape": [3, 32, 32]},
    )
    again = rc.load(tmp_path / "a").eval()
    with torch.no_grad():
        assert torch.equal(again(x), small.eval()(x))
    assert artifact.Artifact.open(tmp_path / "a").versions[""] == 2
    save_checkpoint(tmp_path, {}, TrainingState(), all_tensors(small, {}), {"": 2})
    checkpoint = load_checkpoint(tmp_path)
    assert checkpoint is not None
    restore(checkpoint, again, {})


def test_modules_get_the_versions_that_their_weights_were_saved_with(tmp_path: Path) -> None:
    artifact.save(Holder(), tmp_path / "a", source=source("Holder", 3))
    assert artifact.Artifact.open(tmp_path / "a").versions == {"inner.1": 3}
    again = load(tmp_path / "a")
    assert torch.equal(again.inner[1].scale, torch.full((4,), 2.0))
    save_checkpoint(tmp_path, {}, TrainingState(), all_tensors(again, {}), {"inner.1": 3})
    checkpoint = load_checkpoint(tmp_path)
    assert checkpoint is not None and checkpoint.versions == {"inner.1": 3}
    restore(checkpoint, again, {})
    assert torch.equal(again.inner[1].scale, torch.full((4,), 2.0))


def test_weights_of_an_older_version_are_migrated_and_then_refused_as_altered(tmp_path: Path) -> None:
    artifact.save(Holder(), tmp_path / "a", source=source("Holder", 3))
    change_manifest(tmp_path / "a", lambda data: data.update(versions={}))
    with pytest.raises(ArtifactError, match=r"does not reproduce.*output 0 differs by .* of its largest value"):
        load(tmp_path / "a")


def test_an_artifact_from_before_probes_and_versions_loads(tmp_path: Path) -> None:
    model = Holder()
    artifact.save(model, tmp_path / "a", source=source("Holder", 3))
    change_manifest(tmp_path / "a", lambda data: (data.pop("versions"), data.pop("probe")))
    again = load(tmp_path / "a")
    assert torch.equal(again.inner[1].scale, model.inner[1].scale)
    artifact.add_measurements(tmp_path / "a", {"x": 1})
    assert {"versions", "probe"}.isdisjoint(json.loads((tmp_path / "a" / MANIFEST).read_text()))
    checkpoint_of_then = {"format": 1, "run": {}, "state": {}}
    data = safetensors.torch.save(all_tensors(model, {}), {"reconvene": json.dumps(checkpoint_of_then)})
    (tmp_path / "checkpoint.safetensors").write_bytes(data)
    checkpoint = load_checkpoint(tmp_path)
    assert checkpoint is not None and checkpoint.versions is None
    restore(checkpoint, again, {})
    assert torch.equal(again.inner[1].scale, model.inner[1].scale)


@pytest.mark.parametrize(("change", "accepted"), [(1e-6, True), (3e-5, True), (1e-3, False), (0.5, False)])
def test_differences_of_other_machines_are_accepted_and_others_refused(
    tmp_path: Path, change: float, accepted: bool
) -> None:
    """The tolerance is 1e-4 of the largest output in float32; the last layer alone is changed, so outputs follow."""
    artifact.save(Holder(), tmp_path / "a", source=source("Holder", 3))
    change_weights(tmp_path / "a", lambda t: t * (1 + change) if torch.equal(t, torch.full((4,), 2.0)) else t)
    if accepted:
        load(tmp_path / "a")
        return
    with pytest.raises(ArtifactError, match=r"does not reproduce.*\(tolerance 0\.0001\)"):
        load(tmp_path / "a")


def test_code_that_computes_something_else_now_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    artifact.save(Holder(), tmp_path / "a", source=source("Holder", 3))
    with monkeypatch.context() as patch:
        patch.setattr(Holder, "factor", 1.01)
        with pytest.raises(ArtifactError, match="does not reproduce"):
            load(tmp_path / "a")
    with monkeypatch.context() as patch:
        patch.setattr(Holder, "forward", lambda self, x: (self.inner(x), self.inner(x)))
        with pytest.raises(ArtifactError, match="outputs 2 tensors instead of 1"):
            load(tmp_path / "a")
    with monkeypatch.context() as patch:
        patch.setattr(Holder, "forward", lambda self, x: self.inner(x)[..., :2])
        with pytest.raises(ArtifactError, match=r"has shape \[1, 2\] instead of \[1, 4\]"):
            load(tmp_path / "a")
    with monkeypatch.context() as patch:
        patch.setattr(Holder, "forward", lambda self, x: self.absent(x))
        with pytest.raises(ArtifactError, match=r"does not run on.*absent"):
            load(tmp_path / "a")
    load(tmp_path / "a")


def test_a_model_that_its_source_does_not_reproduce_is_not_saved(tmp_path: Path) -> None:
    model = Holder()
    model.act = torch.tanh
    with pytest.raises(ArtifactError, match="another model, although its tensors fit"):
        artifact.save(model, tmp_path / "a", source=source("Holder", 3))
    assert not (tmp_path / "a").exists()


class Words(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.embed(x)


class Infinite(nn.Linear):
    def __init__(self) -> None:
        super().__init__(3, 4)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) / 0


class Chaotic(Infinite):
    def forward(self, x: Tensor) -> Tensor:
        return torch.sin(x * 1e9)


class Silent(Infinite):
    def forward(self, x: Tensor) -> Tensor:
        return x.argmax(1)


@pytest.mark.parametrize(
    ("kind", "shape", "reason"),
    [
        (Holder, (), "input shape is not known"),
        (Words, (3,), "does not run on"),
        (Infinite, (3,), "not finite"),
        (Chaotic, (3,), "not stable"),
        (Silent, (3,), "no floating-point"),
    ],
)
def test_why_there_is_no_probe_stands_in_the_manifest(
    tmp_path: Path, kind: type[nn.Module], shape: tuple[int, ...], reason: str
) -> None:
    artifact.save(kind(), tmp_path / "a", source=source(kind.__name__, *shape))
    probe = artifact.Artifact.open(tmp_path / "a").probe
    assert probe is not None and probe.input is None and reason in (probe.skipped or "")
    assert set(json.loads((tmp_path / "a" / MANIFEST).read_text())["probe"]) == {"skipped"}
    load(tmp_path / "a")


def test_saving_and_loading_leave_everything_as_it_was(tmp_path: Path) -> None:
    model = Holder().train()
    model.inner[0].eval()
    states = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    artifact.save(model, tmp_path / "a", source=source("Holder", 3))
    again = load(tmp_path / "a")
    assert torch.equal(states[0], torch.get_rng_state()) and states[2] == random.getstate()
    assert (states[1] == np.random.get_state()[1]).all()
    for one in (model, again):
        assert one.forwards == 0 and int(one.calls) == 0
    assert model.training and not model.inner[0].training and again.training
    probe = artifact.Artifact.open(tmp_path / "a").probe
    assert probe is not None and probe.input == ProbeInput((1, 3), "float32", 0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_every_float_dtype_has_a_probe(tmp_path: Path, dtype: torch.dtype) -> None:
    model = ModelSource.from_dict(TINY).build().to(dtype)
    artifact.save(model, tmp_path / "a", source=TINY)
    probe = artifact.Artifact.open(tmp_path / "a").probe
    assert (
        probe is not None and probe.outputs is not None and probe.outputs[0].dtype == str(dtype).removeprefix("torch.")
    )
    artifact.load(tmp_path / "a")
    change_weights(tmp_path / "a", lambda t: t * 1.5 if t.is_floating_point() else t)
    with pytest.raises(ArtifactError, match="does not reproduce"):
        artifact.load(tmp_path / "a")


def test_the_same_seed_gives_the_same_bytes_with_any_number_of_threads(tmp_path: Path) -> None:
    code = "import sys, torch; torch.set_num_threads(int(sys.argv[2])); from reconvene import artifact\n"
    code += f"from reconvene.models import ModelSource; source = ModelSource.from_dict({TINY!r})\n"
    code += "artifact.save(source.build(), sys.argv[1], source=source)"
    for threads in ("1", "2"):
        where = str(tmp_path / threads)
        subprocess.run([sys.executable, "-c", code, where, threads], check=True, env={**os.environ})
    one, two = ({p.name: p.read_bytes() for p in (tmp_path / t).iterdir()} for t in ("1", "2"))
    assert one == two and set(one) == {WEIGHTS, MANIFEST}


@pytest.mark.parametrize(
    "garbled",
    [
        {},
        [],
        "yes",
        {"skipped": 1},
        {"input": {"shape": [1, 3], "dtype": "float32", "seed": 0}},
        {"input": {"shape": [10**9, 10**9], "dtype": "float32", "seed": 0}, "outputs": []},
        {"input": {"shape": [], "dtype": "float32", "seed": 0}, "outputs": [{}]},
        {"input": {"shape": [1, 3], "dtype": "manual_seed", "seed": 0}, "outputs": [{}]},
        {"input": {"shape": [1, 3], "dtype": "float32", "seed": "0"}, "outputs": [{}]},
        {"input": {"shape": [1, 3], "dtype": "float32", "seed": 0}, "outputs": [{"shape": [1], "dtype": "float32"}]},
        {"input": {"shape": [1, 3], "dtype": "float32", "seed": 0}, "outputs": 3},
    ],
)
def test_a_garbled_probe_is_refused(tmp_path: Path, garbled: Any) -> None:
    artifact.save(Holder(), tmp_path / "a", source=source("Holder", 3))
    change_manifest(tmp_path / "a", lambda data: data.update(probe=garbled))
    with pytest.raises(ArtifactError, match=r"reconvene\.json: probe"):
        artifact.Artifact.open(tmp_path / "a")
