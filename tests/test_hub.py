"""Sharing: what was pushed comes back as it was, without pickles and without the repository's other files."""

from __future__ import annotations

import importlib
import json
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import create_autospec

import pytest
import torch

import reconvene as rc
from cli_calls import answer, prune, trouble
from reconvene import artifact
from reconvene.errors import ArtifactError, MissingExtraError

huggingface_hub = pytest.importorskip("huggingface_hub")
yaml = pytest.importorskip("yaml")  # the hub's library brings it
CLIENT = huggingface_hub.HfApi


class Hub:
    """Repositories as folders, behind the signatures of the real client."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.fetched: list[str] = []

    def client(self, token: str | None = None) -> Any:
        client = create_autospec(CLIENT, instance=True)
        client.create_repo.side_effect = self.create_repo
        client.list_repo_files.side_effect = lambda repo_id, **_: [
            path.name for path in (self.root / repo_id).iterdir()
        ]
        client.create_commit.side_effect = self.create_commit
        client.snapshot_download.side_effect = self.snapshot_download
        return client

    def create_repo(self, repo_id: str, **options: Any) -> None:
        self.calls.append(("create_repo", options))
        (self.root / repo_id).mkdir(parents=True, exist_ok=options["exist_ok"])

    def create_commit(self, repo_id: str, changes: list[Any], **options: Any) -> Any:
        self.calls.append(("create_commit", options))
        for change in changes:
            path = self.root / repo_id / change.path_in_repo
            if isinstance(change, huggingface_hub.CommitOperationDelete):
                path.unlink()
            else:
                path.write_bytes(change.path_or_fileobj)
        return SimpleNamespace(commit_url=f"https://hub/{repo_id}/commit/1")

    def snapshot_download(self, repo_id: str, *, revision: str | None, allow_patterns: list[str]) -> str:
        if not (self.root / repo_id).is_dir():
            raise huggingface_hub.errors.LocalEntryNotFoundError("Repository Not Found")
        self.calls.append(("snapshot_download", {"revision": revision}))
        cache = self.root / "cache" / repo_id
        cache.mkdir(parents=True, exist_ok=True)
        for name in allow_patterns:
            if (self.root / repo_id / name).exists():
                shutil.copy(self.root / repo_id / name, cache / name)
                self.fetched.append(name)
        return str(cache)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    stand_in = Hub(tmp_path / "hub")
    monkeypatch.setattr(huggingface_hub, "HfApi", stand_in.client)
    return stand_in


@pytest.fixture(scope="module")
def pruned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hub") / "a"
    prune(folder)
    return folder


@pytest.fixture
def folder(pruned: Path, tmp_path: Path) -> Path:
    shutil.copytree(pruned, tmp_path / "a")
    (tmp_path / "a" / "model.onnx").write_bytes(b"exported")
    training = {"accuracy": 0.875, "loss": 0.5, "dataset": "digits: 10 images", "epochs": 3, "per_class": {"a": 0.25}}
    training["teacher"] = {"model": "resnet56", "accuracy": 0.9375}
    artifact.record(tmp_path / "a", {"training": training})
    return tmp_path / "a"


def same(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    pairs = zip(one.state_dict().items(), other.state_dict().items(), strict=True)
    return all(a == b and torch.equal(x, y) for (a, x), (b, y) in pairs)


def test_what_was_pushed_comes_back_without_the_other_files(hub: Hub, folder: Path, tmp_path: Path) -> None:
    pushed = rc.push_to_hub(folder, "me/net", include=["model.onnx"], private=True, message="first")
    assert set(pushed.files) == {"README.md", "model.onnx", "model.safetensors", "plan.json", "reconvene.json"}
    assert pushed.url == "https://hub/me/net/commit/1" and pushed.url in str(pushed)
    assert hub.calls[0] == ("create_repo", {"private": True, "exist_ok": True})
    assert hub.calls[1] == ("create_commit", {"commit_message": "first", "revision": None})
    for name in ("model.safetensors", "plan.json", "reconvene.json"):
        assert (hub.root / "me" / "net" / name).read_bytes() == (folder / name).read_bytes()
    (hub.root / "me" / "net" / "weights.bin").write_bytes(b"a pickle")
    original = rc.load(folder)
    for found in (rc.load("hf:me/net"), rc.from_pretrained("me/net"), rc.load("hf:me/net@v2")):
        assert same(found, original) and found.reconvene_plan == original.reconvene_plan
    assert set(hub.fetched) == {"model.safetensors", "plan.json", "reconvene.json"}
    assert hub.calls[-1] == ("snapshot_download", {"revision": "v2"})
    assert artifact.pull("me/net", tmp_path / "b") == tmp_path / "b"
    assert {path.name for path in (tmp_path / "b").iterdir()} == {"model.safetensors", "plan.json", "reconvene.json"}
    for path in (tmp_path / "b").iterdir():
        assert path.read_bytes() == (folder / path.name).read_bytes()
    with pytest.raises(ArtifactError, match="--overwrite"):
        artifact.pull("me/net", tmp_path / "b")
    artifact.pull("me/net", tmp_path / "b", overwrite=True)


def test_a_dense_artifact_takes_the_plan_of_the_one_before_away(hub: Hub, folder: Path, tmp_path: Path) -> None:
    rc.push_to_hub(folder, "me/net")
    rc.save(artifact.dense(folder), tmp_path / "dense")
    rc.push_to_hub(tmp_path / "dense", "me/net")
    assert not (hub.root / "me" / "net" / "plan.json").exists()
    assert same(rc.load(tmp_path / "dense"), artifact.dense(folder))


def test_the_card_says_what_the_artifact_says(hub: Hub, folder: Path) -> None:
    text = rc.push_to_hub(folder, "me/net", license="apache-2.0", dry_run=True).card
    _, head, body = text.split("---\n", 2)
    facts = yaml.safe_load(head)
    assert facts["license"] == "apache-2.0" and facts["library_name"] == "reconvene"
    (result,) = facts["model-index"][0]["results"]
    assert result["dataset"]["name"] == "digits" and result["metrics"][0]["value"] == 0.875
    plan = artifact.read_plan(folder)
    assert plan is not None
    for row in plan.rows:
        assert f"| `{row.name}` | {row.dense} | {row.width} |" in body
    for cost, value in plan.costs["pruned"].items():
        assert f"| {cost} | {plan.costs['dense'][cost]:,} | {value:,} |" in body
    assert (
        'rc.load("hf:me/net")' in body
        and "87.50%" in body
        and "resnet56, test accuracy 93.75%" in body
        and "params 2x" in body
        and "`apache-2.0`" in body
    )
    assert hub.calls == [] and not hub.root.exists(), "a dry run uploads nothing"
    assert "No licence was stated" in rc.push_to_hub(folder, "me/net", dry_run=True).card
    assert "license" not in yaml.safe_load(rc.push_to_hub(folder, "me/net", dry_run=True).card.split("---\n")[1])


def test_the_card_of_an_untrained_model_promises_nothing(folder: Path, tmp_path: Path) -> None:
    rc.save(artifact.dense(folder), tmp_path / "dense")
    card = rc.push_to_hub(tmp_path / "dense", "me/net", dry_run=True).card
    assert "was not trained" in card and "model-index" not in card and "## Widths" not in card


def test_a_folder_is_loaded_as_a_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert same(rc.from_pretrained(folder), rc.load(folder))
    monkeypatch.chdir(folder.parent)
    assert same(rc.from_pretrained("a"), rc.load(folder))
    with pytest.raises(ArtifactError, match="no revision v1"):
        rc.from_pretrained("a", revision="v1")


@pytest.mark.parametrize("name", ["model.safetensors", "plan.json"])
def test_altered_files_neither_go_nor_come(name: str, hub: Hub, folder: Path) -> None:
    rc.push_to_hub(folder, "me/net")
    for place, act in ((hub.root / "me" / "net", lambda: rc.load("hf:me/net")), (folder, lambda: push(folder))):
        data = (place / name).read_bytes()
        (place / name).write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
        with pytest.raises(ArtifactError, match="altered"):
            act()


def push(folder: Path) -> None:
    rc.push_to_hub(folder, "me/other")


def test_a_model_that_imports_code_needs_permission_from_the_hub_too(hub: Hub, folder: Path) -> None:
    rc.save(
        torch.nn.Linear(3, 2),
        folder.parent / "own",
        source={"address": "torch.nn:Linear", "args": {"in_features": 3, "out_features": 2}},
    )
    card = rc.push_to_hub(folder.parent / "own", "me/own").card
    assert "allow_import=True" in card
    with pytest.raises(ArtifactError, match="allow_import"):
        rc.load("hf:me/own")
    assert rc.load("hf:me/own", allow_import=True).out_features == 2


def test_trouble_with_the_hub_is_an_error_of_ours(
    hub: Hub, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    transport = importlib.import_module(huggingface_hub.errors.HfHubHTTPError.__bases__[0].__module__)
    with pytest.raises(ArtifactError, match="loading me/nothing failed: Repository Not Found"):
        rc.load("hf:me/nothing")
    (hub.root / "me" / "other").mkdir(parents=True)
    with pytest.raises(ArtifactError, match=r"no Reconvene artifact: it holds no reconvene\.json"):
        rc.load("hf:me/other")
    for address in ("hf:", "hf:me/net@"):
        with pytest.raises(ArtifactError, match="owner/name@revision"):
            rc.load(address)
    for error in (transport.ConnectError("no way"), OSError("no way"), ValueError("no way")):

        def refuse(*_: Any, error: BaseException = error, **__: Any) -> None:
            raise error

        with monkeypatch.context() as patch:
            patch.setattr(hub, "create_commit", refuse)
            with pytest.raises(ArtifactError, match="pushing to me/net failed: no way"):
                rc.push_to_hub(folder, "me/net")
    for name in ("nothing.onnx", "../a/model.onnx", "plan.json"):
        with pytest.raises(ArtifactError, match="cannot go along"):
            rc.push_to_hub(folder, "me/net", include=[name])
    with pytest.raises(ArtifactError, match="no Reconvene artifact"):
        rc.push_to_hub(tmp_path, "me/net")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    for act in (lambda: rc.load("hf:me/net"), lambda: push(folder)):
        with pytest.raises(MissingExtraError, match=r"reconvene\[hub\]"):
            act()


def test_the_commands(hub: Hub, folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    shown = answer(capfd, "push", str(folder), "me/net", "--dry-run", "--license", "mit")
    assert shown["url"] is None and "`mit`" in shown["card"] and hub.calls == []
    done = answer(capfd, "push", str(folder), "me/net", "--include", "model.onnx", "--revision", "next")
    assert done["url"] and done["files"]["model.onnx"] == 8
    assert hub.calls[0] == ("create_repo", {"private": None, "exist_ok": True})
    assert hub.calls[1][1] == {"commit_message": "Push resnet20", "revision": "next"}
    found = answer(capfd, "pull", "me/net", "-o", str(tmp_path / "b"), "--revision", "next")
    assert found["model"] == json.loads((folder / "reconvene.json").read_text())["model"]
    assert same(rc.load(tmp_path / "b"), rc.load(folder))
    assert "--overwrite" in trouble(capfd, "pull", "me/net", "-o", str(tmp_path / "b"))
