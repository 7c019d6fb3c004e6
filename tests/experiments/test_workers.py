"""Several runs at a time, here or on a Ray cluster, give the results of one after the other, also if one is killed."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from reconvene.errors import ExperimentError
from reconvene.experiments import Experiment, compare, make_experiment, process
from reconvene.experiments.process import execute_in_process, job_of
from reconvene.experiments.worker import ERROR, RESULT, execute_run
from reconvene.utils.plugins import VARIABLE
from reconvene.utils.progress import notes_to

KILLER = """
import os, signal
marker = {marker!r}
if "reconvene.experiments.worker" in " ".join(open("/proc/self/cmdline").read().split("\\0")):
    try:
        os.close(os.open(marker, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        pass
    else:
        os.kill(os.getpid(), signal.SIGKILL)
"""
"""A plugin that kills the first run that imports it."""


def experiment(arms: Sequence[str]) -> Experiment:
    return make_experiment(
        {
            "epochs": 1,
            "latency": False,
            "train": {"batch_size": 32, "precision": "fp32"},
            "models": [{"model": "resnet20", "args": {"width": 0.25}}],
            "data": [{"name": "digits", "spec": "digits", "limit": 128}],
            "budgets": [{"params": "3x"}],
            "arms": [{"arm": arm} for arm in arms],
        }
    )


@pytest.fixture
def killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What is there once a run was killed."""
    marker = tmp_path / "killed"
    (tmp_path / "killer.py").write_text(KILLER.format(marker=str(marker)))
    monkeypatch.setenv(VARIABLE, "killer")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return marker


def untimed(record: dict[str, Any]) -> dict[str, Any]:
    """A record without what another process takes another time for."""
    search = {key: sorted(value) if key == "steps" else None for key, value in record["search"].items()}
    training = {key: value for key, value in record["training"].items() if not key.startswith("seconds")}
    return {**record, "search": search, "training": training, "seconds": 0, "date": ""}


@pytest.mark.slow
def test_two_workers_of_which_one_is_killed_give_the_results_of_this_process(tmp_path: Path, killed: Path) -> None:
    pytest.importorskip("sklearn")
    runs = experiment(["uniform", "random"])

    lines: list[str] = []
    with notes_to(lines.append):
        state = compare(runs, tmp_path / "results.jsonl", tmp_path / "work", workers=2)
    assert killed.exists() and not state.failed and not state.left
    assert len(lines) == 2 and lines[1].startswith("[2/2]") and not (tmp_path / "work").exists()
    for run, record in zip(runs.runs, state.records, strict=True):
        alone = execute_run(run, tmp_path / run.key, data="digits")
        assert untimed(record) == untimed({**alone, "threads": record["threads"]})
    again = compare(runs, tmp_path / "results.jsonl", tmp_path / "work", workers=2)
    assert again == state


@pytest.mark.slow
def test_two_ray_nodes_of_which_one_run_is_killed_give_the_serial_results(tmp_path: Path, killed: Path) -> None:
    ray = pytest.importorskip("ray")
    cluster_utils = pytest.importorskip("ray.cluster_utils")
    runs = experiment(["dense", "uniform", "random", "ours"])
    cluster = cluster_utils.Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    try:
        cluster.add_node(num_cpus=1)
        spread = compare(runs, tmp_path / "spread.jsonl", tmp_path / "work", ray=cluster.address)
        assert len([node for node in ray.nodes() if node["Alive"]]) == 2
    finally:
        ray.shutdown()
        cluster.shutdown()
    assert killed.exists() and not spread.failed and not spread.left
    serial = compare(runs, tmp_path / "serial.jsonl", tmp_path / "work")
    assert list(map(untimed, spread.records)) == list(map(untimed, serial.records))


def test_a_run_that_is_killed_is_begun_three_times(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (run,) = experiment(["uniform"]).runs
    begun: list[Path] = []
    monkeypatch.setattr(process, "_exit_code", lambda job, folder: begun.append(folder) or -9)
    (tmp_path / run.key).mkdir()
    (tmp_path / run.key / "output.txt").write_text("one\nout of memory")
    files = execute_in_process(job_of(run, "digits", threads=1, deadline=None), str(tmp_path))
    assert begun == [tmp_path / run.key] * 3 and files == {ERROR: b"its process ended with -9: out of memory"}


@pytest.mark.parametrize("code", [None, -9, 0, 1])
def test_a_run_whose_result_is_there_is_finished_however_its_process_ended(
    code: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """None: the deadline came after the result, and before the process had ended."""
    (run,) = experiment(["uniform"]).runs

    def finish(job: Any, folder: Path) -> int | None:
        folder.mkdir()  # a second attempt would fail
        (folder / RESULT).write_bytes(b"{}")
        return code

    monkeypatch.setattr(process, "_exit_code", finish)
    job = job_of(run, "digits", threads=1, deadline=time.time() + 60)
    assert execute_in_process(job, str(tmp_path)) == {RESULT: b"{}"}


def test_a_run_that_is_due_after_the_deadline_is_not_begun(tmp_path: Path) -> None:
    (run,) = experiment(["uniform"]).runs
    assert execute_in_process(job_of(run, "digits", threads=1, deadline=0.0), str(tmp_path)) == {}
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_cluster_that_does_not_answer_is_named(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    with pytest.raises(ExperimentError, match=r"no Ray cluster answers at 127.0.0.1:1: .*ray start --head"):
        compare(experiment(["uniform"]), tmp_path / "r.jsonl", tmp_path / "work", ray="127.0.0.1:1")
