"""One run as a job: carried out in a process of its own, on this machine or on whichever machine the job came to."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

from reconvene.errors import ExperimentError
from reconvene.experiments.config import Run
from reconvene.experiments.worker import ERROR, RESULT, RUN
from reconvene.utils.executors import ATTEMPTS, FileContents, Job
from reconvene.utils.files import write_atomic

_PATIENCE = 15.0
"""Seconds for a run that was asked to stop."""


def job_of(run: Run, source: str, *, threads: int, deadline: float | None) -> Job:
    """The job of a run: its data lies at ``source``; it stops at ``deadline`` (``time.time()``), however far it is.

    ``threads``: of PyTorch, on every machine alike, since sums depend on them.
    """
    return {"key": run.key, "run": asdict(run), "data": source, "threads": threads, "deadline": deadline}


def execute_in_process(job: Job, work: str) -> FileContents:
    """``result.json`` of a run, or ``error.txt`` that says why there is none; nothing where it was stopped before.

    A process that is killed is begun again, three times in all: it goes on from its checkpoint.
    """
    folder = Path(work) / job["key"]
    code: int | None = -1
    for _ in range(ATTEMPTS):
        if code is None or code >= 0:
            break
        if job["deadline"] is not None and time.time() >= job["deadline"]:
            return {}
        code = _exit_code(job, folder)
        if (folder / RESULT).exists():  # the run is finished, however its process ended after that
            return {RESULT: (folder / RESULT).read_bytes()}
    if code is None:
        return {}
    if (folder / ERROR).exists():
        return {ERROR: (folder / ERROR).read_bytes().strip()}
    last = (folder / "output.txt").read_text(encoding="utf-8", errors="replace").strip().rpartition("\n")[2]
    return {ERROR: f"its process ended with {code}: {last}".encode()}


def _exit_code(job: Job, folder: Path) -> int | None:
    """How the process of a run ended; None where it was stopped at the deadline."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in (ERROR, RESULT):
        (folder / name).unlink(missing_ok=True)
    request = json.dumps({"run": job["run"], "data": job["data"]}).encode()
    write_atomic(folder / RUN, request, error=ExperimentError)
    with (folder / "output.txt").open("w", encoding="utf-8") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "reconvene.experiments.worker", str(folder), str(os.getpid())],
            stdout=output,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env={**os.environ, "OMP_NUM_THREADS": str(job["threads"])},
        )
        try:
            return process.wait(None if job["deadline"] is None else max(0.0, job["deadline"] - time.time()))
        except subprocess.TimeoutExpired:
            _stop(process)
            return None
        except BaseException:  # Ctrl-C above all: no run outlives the experiment
            _stop(process)
            raise


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(_PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
