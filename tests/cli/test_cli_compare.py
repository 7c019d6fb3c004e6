"""The command ``compare``: which runs there are, what is refused, and a comparison that is stopped and goes on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from reconvene import cli
from support.cli_calls import answer, trouble

EXPERIMENT = """
epochs = 1
latency = false
[train]
batch_size = 32
precision = "fp32"
[[models]]
model = "resnet20"
args = { width = 0.25 }
[[data]]
name = "digits"
spec = "digits"
limit = 128
[[budgets]]
params = "3x"
[[arms]]
arm = "dense"
[[arms]]
arm = "ours"
"""
FAILING = EXPERIMENT.replace('arm = "ours"', 'arm = "cut"\ngroup = "nowhere"')


@pytest.fixture
def file(tmp_path: Path) -> str:
    (tmp_path / "e.toml").write_text(EXPERIMENT)
    return str(tmp_path / "e.toml")


def test_the_list_names_every_run_and_runs_none(file: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    listed = answer(capfd, "compare", file, "--list", "-o", str(out))["runs"]
    assert len(listed) == 2 and all(set(run) == {"key", "what"} for run in listed) and not out.exists()
    (ours,) = answer(capfd, "compare", file, "--list", "--only", "ours", "-o", str(out))["runs"]
    assert "ours" in ours["what"] and ours in listed


@pytest.mark.parametrize(
    ("more", "code", "words"),
    [
        (["--seconds", "0"], 2, "--seconds 0: it is above 0"),
        (["--data", "digits"], 2, "--data digits is not NAME=SPEC"),
        (["--data", "digit=/fast"], 1, "unknown data of the experiment 'digit'. Did you mean 'digits'?"),
        (["--workers", "0"], 2, "--workers 0"),
        (["--workers", "2", "--ray", "auto"], 2, "Give one of them"),
        (["--only", "unifrom"], 1, "no run has 'unifrom'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_options_that_cannot_be_followed_are_refused(
    more: list[str], code: int, words: str, file: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert words in trouble(capfd, "compare", file, *more, "-o", str(tmp_path / "out"), code=code)
    assert not (tmp_path / "out").exists()


def test_one_run_then_the_others_with_results_in_a_file_of_choice(
    file: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out, results = tmp_path / "out", tmp_path / "all.jsonl"
    call = ["compare", file, "-o", str(out), "--results", str(results), "--data", "digits=digits"]
    first = answer(capfd, *call, "--only", "dense")
    assert [record["run"]["arm"] for record in first["records"]] == ["dense"] and first["left"] == 0
    before = results.read_text()
    both = answer(capfd, *call)
    assert {record["run"]["arm"] for record in both["records"]} == {"dense", "ours"}
    assert results.read_text().startswith(before), "what is done is not done again"
    assert {json.loads(line)["key"] for line in results.read_text().splitlines()} == {
        run["key"] for run in answer(capfd, "compare", file, "--list")["runs"]
    }
    assert {"table.md", "index.html"} <= {Path(path).name for path in both["written"]}
    assert all(Path(path).is_file() for path in both["written"])


def test_results_on_other_images_of_the_same_name_are_pointed_out(
    file: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    results = tmp_path / "out" / "results.jsonl"
    call = ["compare", file, "-o", str(tmp_path / "out"), "--only"]
    assert cli.main([*call, "dense"]) == 0
    assert "other images" not in capfd.readouterr().err
    record = json.loads(results.read_text())
    results.write_text(json.dumps({**record, "dataset_sha256": "0" * 64}) + "\n")
    assert cli.main([*call, "ours"]) == 0
    assert "other images are called 'digits' now than in earlier results" in capfd.readouterr().err


def test_runs_that_fail_are_counted_apart_from_those_that_wait(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "e.toml").write_text(FAILING)
    said = trouble(capfd, "compare", str(tmp_path / "e.toml"), "--only", "cut", "-o", str(tmp_path / "out"))
    assert "1 run failed, 0 are done" in said and "nowhere" in said and ".." not in said
