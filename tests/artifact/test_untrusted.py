"""Artifacts of somebody else: no path, file, plan or argument in one reaches what an artifact has no business with."""

from __future__ import annotations

import importlib
import json
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from torch import nn

import reconvene as rc
from reconvene import artifact
from reconvene.artifact import MANIFEST, PLAN, WEIGHTS
from reconvene.errors import ArtifactError, ModelError, PlanError, ReconveneError
from reconvene.models import ModelSource, example_inputs, resolve_address
from reconvene.surgery.ranges import MOST, from_text
from support.signed_artifacts import change_manifest, describe, put_file

SOURCE = ModelSource("resnet20", {"width": 0.25}, (3, 32, 32))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = artifact.remember_origin(SOURCE.build(), plan=None, source=SOURCE)
    small = rc.prune(model, example_inputs((3, 32, 32)), budget=rc.Budget(params="2x"), criterion="magnitude")
    folder = tmp_path_factory.mktemp("untrusted") / "a"
    rc.save(small, folder)
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    (tmp_path / "a").mkdir()
    for path in made.iterdir():
        (tmp_path / "a" / path.name).write_bytes(path.read_bytes())
    return tmp_path / "a"


def sign(folder: Path, **changes: Any) -> None:
    change_manifest(folder, lambda data: data.update(changes))


def change_plan(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    plan = json.loads((folder / PLAN).read_text())
    change(plan)
    put_file(folder, PLAN, json.dumps(plan).encode())


@pytest.mark.parametrize(
    "name", ["/etc/hostname", "../secret", "README.md", "sub/plan.json", MANIFEST, "plan.json.new"]
)
def test_a_manifest_names_no_other_file(name: str, folder: Path) -> None:
    secret = folder.parent / "secret"
    secret.write_text("not yours")
    files = json.loads((folder / MANIFEST).read_text())["files"]
    sign(folder, files={**files, name: describe(b"not yours")})
    before = sorted(path.name for path in folder.parent.rglob("*"))
    acts: list[Callable[[], Any]] = [
        lambda: rc.load(folder),
        lambda: artifact.add_measurements(folder, {"x": 1}),
        lambda: rc.push_to_hub(folder, "me/net", dry_run=True),
        lambda: artifact.read_plan(folder),
    ]
    for act in acts:
        with pytest.raises(ArtifactError, match=r"files\..*expected 'model\.safetensors' or 'plan\.json'"):
            act()
    assert sorted(path.name for path in folder.parent.rglob("*")) == before


@pytest.mark.parametrize(
    "changes",
    [
        {"files": None},
        {"files": {}},
        {"files": {WEIGHTS: {}}},
        {"files": {WEIGHTS: {"sha256": "0" * 64, "bytes": -1}}},
        {"files": {WEIGHTS: {"sha256": 5, "bytes": 1}}},
        {"aliases": [1]},
        {"aliases": {"a": 1}},
        {"measurements": []},
        {"reconvene": None},
        {"model": "resnet20"},
        {"model": {"address": 5}},
        {"model": {"address": "resnet20", "args": {"width": [1]}}},
        {"versions": {"": "two"}},
    ],
)
def test_entries_of_a_wrong_type_are_errors_of_ours(changes: dict[str, Any], folder: Path) -> None:
    sign(folder, **changes)
    with pytest.raises(ArtifactError, match=r"reconvene\.json: \w+"):
        rc.load(folder)


@pytest.mark.timeout(30)
@pytest.mark.parametrize("name", [WEIGHTS, PLAN, MANIFEST])
@pytest.mark.parametrize("kind", ["fifo", "device", "folder", "huge"])
def test_only_regular_files_of_the_expected_size_are_read(name: str, kind: str, folder: Path) -> None:
    """None waits for a writer, and none reads a file that has no end."""
    path = folder / name
    path.unlink()
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "folder":
        path.mkdir()
    else:
        with path.open("wb") as file:
            file.truncate(2**40)  # a terabyte, none of it on the disk
    with pytest.raises(ArtifactError, match=r"not a regular file|altered|at most|cannot read"):
        rc.load(folder)


def test_a_link_to_a_regular_file_is_read(folder: Path, tmp_path: Path) -> None:
    """The cache of the hub holds links."""
    (folder / WEIGHTS).rename(tmp_path / "blob")
    (folder / WEIGHTS).symlink_to(tmp_path / "blob")
    rc.load(folder)


def test_json_without_end_is_an_error_of_ours(folder: Path) -> None:
    put_file(folder, PLAN, b"[" * 100_000)
    with pytest.raises(PlanError, match=r"plan\.json is truncated, nested too deep"):
        rc.load(folder)
    (folder / MANIFEST).write_bytes(b'{"a":' * 100_000)
    with pytest.raises(ArtifactError, match=r"reconvene\.json is truncated, nested too deep"):
        rc.load(folder)


@pytest.mark.timeout(30)
@pytest.mark.parametrize(
    "text", ["0-99999999", f"0-{MOST}", "5-3", "3-1,7", "1,1", "0-4,2", "-3", "a", "1-", "0-9" * 30]
)
def test_ranges_that_stand_for_too_much_or_nothing_are_refused(text: str, folder: Path) -> None:
    with pytest.raises(PlanError, match="range"):
        from_text(text)

    def change(plan: dict[str, Any]) -> None:
        slices = plan["slices"][next(iter(plan["slices"]))]
        slices[next(iter(slices))] = text

    change_plan(folder, change)
    with pytest.raises(ReconveneError):
        rc.load(folder)


@pytest.mark.parametrize(
    ("path", "name", "value"),
    [
        ("", "forward", 1),
        ("stem", "_forward_hooks", {}),
        ("stem.0", "training", 0),
        ("stem.0", "_version", 5),
        ("stem.0", "padding_mode", "circular"),
        ("stem.0", "out_channels", "4"),
        ("stem.0", "out_channels", True),
        ("stem.0", "out_channels", -1),
        ("stem.0", "weight", 3),
        ("stem.0", "new", 3),
        ("stem.0", "kernel_size", [3]),
        ("absent", "out_channels", 3),
    ],
)
def test_a_plan_sets_nothing_but_sizes(path: str, name: Any, value: Any, folder: Path) -> None:
    change_plan(folder, lambda plan: plan["attributes"].append([path, name, value]))
    with pytest.raises(ArtifactError, match="which is not a size"):
        rc.load(folder)


def test_a_plan_that_does_not_fit_its_model_is_an_error_of_ours(folder: Path) -> None:
    change_plan(folder, lambda plan: plan["slices"].update({"stem.0.weight": {"9": "0-1"}}))
    with pytest.raises(ArtifactError, match="the plan does not fit"):
        rc.load(folder)


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """No socket can be opened; the list says who tried."""
    tried: list[str] = []

    def refuse(*given: Any, **_: Any) -> Any:
        tried.append(repr(given))
        raise OSError("no network in this test")

    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    return tried


FAMILIES = [
    ("torchvision:mobilenet_v3_small", {"num_classes": 3, "width_mult": 0.5}, (3, 32, 32)),
    ("timm:resnet10t", {"num_classes": 3, "drop_path_rate": 0.1}, (3, 32, 32)),
    ("timm:vit_tiny_patch16_224", {"num_classes": 3, "img_size": 32, "depth": 2, "class_token": True}, (3, 32, 32)),
    (
        "transformers:vit",
        {"num_labels": 3, "image_size": 32, "num_hidden_layers": 1, "hidden_act": "relu"},
        (3, 32, 32),
    ),
]


@pytest.mark.parametrize(("address", "args", "shape"), FAMILIES, ids=[family[0] for family in FAMILIES])
def test_loading_opens_no_socket(
    address: str, args: dict[str, Any], shape: tuple[int, ...], tmp_path: Path, offline: list[str]
) -> None:
    pytest.importorskip(address.partition(":")[0])
    source = ModelSource(address, args, shape)
    rc.save(source.build(), tmp_path / "a", source=source)
    assert isinstance(rc.load(tmp_path / "a"), nn.Module) and offline == []


@pytest.mark.parametrize(
    ("address", "name", "value"),
    [
        ("transformers:vit", "attn_implementation", "kernels-community/flash-attn"),
        ("transformers:vit", "cache_dir", "x"),
        ("transformers:vit", "force_download", True),
        ("transformers:vit", "backbone", "resnet50"),
        ("transformers:vit", "use_pretrained_backbone", True),
        ("transformers:vit", "hidden_act", "owner/name"),
        ("transformers:vit", "_attn_implementation", "eager"),
        ("timm:resnet10t", "cache_dir", "x"),
        ("timm:resnet10t", "pretrained_strict", False),
        ("timm:resnet10t", "checkpoint_path", "x"),
        ("timm:resnet10t", "act_layer", "hf_hub:owner/name"),
        ("timm:resnet10t", "scriptable", True),
        ("torchvision:resnet18", "weights", "DEFAULT"),
        ("torchvision:resnet18", "surprise", 1),
    ],
)
def test_arguments_that_lead_elsewhere_are_refused(
    address: str, name: str, value: Any, folder: Path, offline: list[str]
) -> None:
    pytest.importorskip(address.partition(":")[0])
    sign(folder, model={"address": address, "args": {name: value}, "input_shape": [3, 32, 32], "seed": 0})
    with pytest.raises(ModelError, match=f"argument '?{name}.* is refused"):
        rc.load(folder)
    assert offline == []


@pytest.mark.parametrize("address", ["transformers:owner/name", "timm:hf_hub:owner/name", "timm:hf-hub:owner/name"])
def test_an_address_on_the_hub_is_never_fetched_by_a_load(address: str, folder: Path, offline: list[str]) -> None:
    pytest.importorskip(address.partition(":")[0])
    sign(folder, model={"address": address, "args": {}, "input_shape": [3, 32, 32], "seed": 0})
    with pytest.raises(ReconveneError):
        rc.load(folder)
    assert offline == []
    if address.startswith("transformers:"):
        with pytest.raises(ModelError, match="not fetched to this machine"):
            rc.load(folder)
        with pytest.raises(ReconveneError):
            resolve_address(address)
        assert offline, "a user who resolves it by hand does look it up"


def test_a_configuration_that_was_fetched_before_is_found_without_the_hub(
    tmp_path: Path, offline: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    transformers = pytest.importorskip("transformers")
    constants = importlib.import_module("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    repository = tmp_path / "cache" / "models--owner--name"
    config = transformers.ViTConfig(image_size=32, num_hidden_layers=1, hidden_size=12, num_attention_heads=3)
    config.save_pretrained(repository / "snapshots" / "0123")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0123")
    source = ModelSource("transformers:owner/name", {"num_labels": 3}, (3, 32, 32))
    rc.save(source.build(), tmp_path / "a", source=source)
    assert rc.load(tmp_path / "a").config.num_labels == 3 and offline == []
