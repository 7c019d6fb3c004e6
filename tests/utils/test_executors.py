"""The pool of processes: jobs that come one by one, and workers that die meanwhile."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from reconvene.utils.executors import in_processes
from support.process_jobs import write_or_die


def _jobs(work: Path, *, first_dies: bool) -> Iterator[dict[str, Any]]:
    """Three jobs, the second once the first one is under way."""
    yield {"key": "first", "dies": first_dies}
    _until((work / "first.was-here").exists)
    yield {"key": "second"}
    yield {"key": "third"}


@pytest.mark.parametrize("workers", [1, 2])
def test_a_job_is_at_work_while_the_next_one_is_made(tmp_path: Path, workers: int) -> None:
    outcomes = dict(
        (job["key"], files)
        for job, files in in_processes(write_or_die, _jobs(tmp_path, first_dies=False), str(tmp_path), workers=workers)
    )
    assert outcomes == {key: {"name": key.encode()} for key in ("first", "second", "third")}


def test_jobs_that_come_after_a_worker_died_are_done(tmp_path: Path) -> None:
    outcomes = {
        job["key"]: files
        for job, files in in_processes(write_or_die, _jobs(tmp_path, first_dies=True), str(tmp_path), workers=2)
    }
    assert str(outcomes.pop("first")).startswith("its worker died 3 times")
    assert outcomes == {key: {"name": key.encode()} for key in ("second", "third")}
    assert not list(tmp_path.glob("*.begun"))


def test_no_jobs_start_no_process(tmp_path: Path) -> None:
    assert list(in_processes(write_or_die, iter(()), str(tmp_path), workers=2)) == []


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")
def test_workers_end_with_a_parent_that_was_killed(tmp_path: Path) -> None:
    program = f"from support.process_jobs import two_sleepers; two_sleepers({str(tmp_path)!r})"
    tests = str(Path(__file__).parents[1])
    parent = subprocess.Popen([sys.executable, "-c", program], env={**os.environ, "PYTHONPATH": tests})
    files = [tmp_path / f"{key}.process" for key in "ab"]
    _until(lambda: all(file.exists() and file.read_text().endswith("\n") for file in files))
    workers = [int(file.read_text()) for file in files]
    assert all(map(_runs, workers))
    parent.kill()
    parent.wait()
    _until(lambda: not any(map(_runs, workers)))


def _runs(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)
