"""Sharing: what was pushed comes back as it was, without pickles and without the repository's other files."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import reconvene as rc
from reconvene import artifact
from reconvene.errors import ArtifactError, MissingExtraError
from support.cli_calls import answer, prune, trouble
from support.hub_server import TOKEN, HubServer
from support.training_checks import same

huggingface_hub = pytest.importorskip("huggingface_hub")
yaml = pytest.importorskip("yaml")  # the hub's library brings it
constants = importlib.import_module("huggingface_hub.constants")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """A server that the real client talks to: what the environment says, set where the client has read it already."""
    with HubServer() as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", server.url + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield server


def environment(server: HubServer, home: Path) -> dict[str, str]:
    """For a process of its own, in which no part of the client is imported yet."""
    own = {"HF_ENDPOINT": server.url, "HF_HOME": str(home), "HF_TOKEN": TOKEN, "HF_HUB_DISABLE_XET": "1"}
    return {**os.environ, **own}


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
    artifact.add_measurements(tmp_path / "a", {"training": training})
    return tmp_path / "a"


def test_what_was_pushed_comes_back_without_the_other_files(hub: HubServer, folder: Path, tmp_path: Path) -> None:
    pushed = rc.push_to_hub(folder, "me/net", include=["model.onnx"], private=True, message="first")
    own = {"model.safetensors", "plan.json", "reconvene.json", "timings.json"}
    assert set(pushed.files) == {"README.md", "model.onnx", *own}
    assert pushed.url == f"{hub.url}/me/net/commit/{hub.heads['me/net', 'main']}" and pushed.url in str(pushed)
    assert hub.private == {"me/net"} and hub.messages == ["first"]
    for name in ("model.onnx", *own):
        assert hub.files("me/net")[name] == (folder / name).read_bytes()
    hub.commit("me/net", "v2", {**hub.files("me/net"), "weights.bin": b"a pickle"})
    original = rc.load(folder)
    for found in (rc.load("hf:me/net"), rc.from_pretrained("me/net"), rc.load("hf:me/net@v2")):
        assert same(found, original) and found.reconvene_plan == original.reconvene_plan
    assert set(hub.served) == own
    assert artifact.pull("me/net", tmp_path / "b", revision="v2") == tmp_path / "b"
    assert {path.name for path in (tmp_path / "b").iterdir()} == own
    for path in (tmp_path / "b").iterdir():
        assert path.read_bytes() == (folder / path.name).read_bytes()
    with pytest.raises(ArtifactError, match="--overwrite"):
        artifact.pull("me/net", tmp_path / "b")
    artifact.pull("me/net", tmp_path / "b", overwrite=True)


def test_the_commands_in_processes_of_their_own(folder: Path, tmp_path: Path) -> None:
    """As a user has it: the client is imported by our code alone, and reads its environment itself."""
    (folder / "net.tar.gz").write_bytes(b"a bundle" * 1000)
    with HubServer() as server:

        def command(*arguments: str, offline: bool = False) -> subprocess.CompletedProcess[str]:
            own = environment(server, tmp_path / "home") | ({"HF_HUB_OFFLINE": "1"} if offline else {})
            return subprocess.run(
                [sys.executable, *arguments], capture_output=True, text=True, check=False, env=own, timeout=120
            )

        done = command("-m", "reconvene", "push", str(folder), "me/net", "--include", "net.tar.gz")
        assert done.returncode == 0, done.stderr
        assert server.files("me/net")["net.tar.gz"] == (folder / "net.tar.gz").read_bytes()
        done = command("-m", "reconvene", "pull", "me/net", "-o", str(tmp_path / "b"))
        assert done.returncode == 0 and same(rc.load(tmp_path / "b"), rc.load(folder)), done.stderr
        load = "import reconvene as rc; print(len(list(rc.load('hf:me/net').parameters())))"
        parameters = str(len(list(rc.load(folder).parameters())))
        for offline in (False, True):  # the second from the cache alone
            done = command("-c", load, offline=offline)
            assert done.stdout.strip() == parameters, done.stderr
        done = command("-m", "reconvene", "pull", "me/nothing", "-o", str(tmp_path / "c"))
    assert done.returncode == 1 and "loading me/nothing failed" in done.stderr and "Traceback" not in done.stderr


def test_a_dense_artifact_takes_the_plan_of_the_one_before_away(hub: HubServer, folder: Path, tmp_path: Path) -> None:
    rc.push_to_hub(folder, "me/net")
    rc.save(artifact.dense(folder), tmp_path / "dense")
    rc.push_to_hub(tmp_path / "dense", "me/net")
    assert {"plan.json", "timings.json"}.isdisjoint(hub.files("me/net"))
    assert same(rc.load("hf:me/net"), artifact.dense(folder))


def test_a_branch_that_is_not_there_is_made(hub: HubServer, folder: Path) -> None:
    rc.push_to_hub(folder, "me/net", revision="next")
    assert "reconvene.json" in hub.files("me/net", "next") and "reconvene.json" not in hub.files("me/net")
    artifact.add_measurements(folder, {"x": 1})
    rc.push_to_hub(folder, "me/net", revision="next")
    assert rc.load("hf:me/net@next") is not None


def test_the_card_says_what_the_artifact_says(hub: HubServer, folder: Path) -> None:
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
    assert hub.repositories == {}, "a dry run uploads nothing"
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
def test_altered_files_neither_go_nor_come(name: str, hub: HubServer, folder: Path) -> None:
    rc.push_to_hub(folder, "me/net")
    hub.commit("me/net", "main", {**hub.files("me/net"), name: altered(hub.files("me/net")[name])})
    with pytest.raises(ArtifactError, match="altered"):
        rc.load("hf:me/net")
    (folder / name).write_bytes(altered((folder / name).read_bytes()))
    with pytest.raises(ArtifactError, match="altered"):
        push(folder)
    assert "me/other" not in hub.repositories


def altered(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1])


def push(folder: Path) -> None:
    rc.push_to_hub(folder, "me/other")


def test_a_model_that_imports_code_needs_permission_from_the_hub_too(hub: HubServer, folder: Path) -> None:
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
    hub: HubServer, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ArtifactError, match=r"loading me/nothing failed: .*Repository Not Found"):
        rc.load("hf:me/nothing")
    hub.repositories["me/other"] = {}
    hub.commit("me/other", "main", {"weights.bin": b"a pickle"})
    with pytest.raises(ArtifactError, match=r"not a Reconvene artifact: it holds no reconvene\.json"):
        rc.load("hf:me/other")
    with pytest.raises(ArtifactError, match=r"loading me/other failed: .*Revision Not Found"):
        rc.load("hf:me/other@v9")
    for address in ("hf:", "hf:me/net@"):
        with pytest.raises(ArtifactError, match="owner/name@revision"):
            rc.load(address)
    for name in ("nothing.onnx", "../a/model.onnx", "plan.json"):
        with pytest.raises(ArtifactError, match="cannot go along"):
            rc.push_to_hub(folder, "me/net", include=[name])
    with pytest.raises(ArtifactError, match="not a Reconvene artifact"):
        rc.push_to_hub(tmp_path, "me/net")
    with pytest.raises(ArtifactError, match=r"pushing to me/net failed: .*401"):
        rc.push_to_hub(folder, "me/net", token="hf_wrong")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    for act in (lambda: rc.load("hf:me/net"), lambda: push(folder)):
        with pytest.raises(MissingExtraError, match=r"reconvene\[hub\]"):
            act()


@pytest.mark.parametrize("request_of", ["/repos/create", "/validate-yaml", "/preupload/", "/blobs/", "/commit/"])
def test_whatever_request_of_an_upload_the_hub_refuses(request_of: str, hub: HubServer, folder: Path) -> None:
    hub.refused[request_of] = 403
    with pytest.raises(ArtifactError, match="pushing to me/net failed: "):
        rc.push_to_hub(folder, "me/net")


def test_a_hub_that_does_not_answer(hub: HubServer, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(ArtifactError, match="loading me/net failed: "):
        rc.load("hf:me/net")
    with pytest.raises(ArtifactError, match=r"pushing to me/net failed: .*refused"):
        rc.push_to_hub(folder, "me/net")


def test_the_commands(hub: HubServer, folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    shown = answer(capfd, "push", str(folder), "me/net", "--dry-run", "--license", "mit")
    assert shown["url"] is None and "`mit`" in shown["card"] and hub.repositories == {}
    done = answer(capfd, "push", str(folder), "me/net", "--include", "model.onnx", "--revision", "next")
    assert done["url"] and done["files"]["model.onnx"] == 8
    assert hub.private == set() and hub.messages == ["Push resnet20"]
    found = answer(capfd, "pull", "me/net", "-o", str(tmp_path / "b"), "--revision", "next")
    assert found["model"] == json.loads((folder / "reconvene.json").read_text())["model"]
    assert same(rc.load(tmp_path / "b"), rc.load(folder))
    assert "--overwrite" in trouble(capfd, "pull", "me/net", "-o", str(tmp_path / "b"))
