"""The harness: every run of an experiment in a process of its own, one after the other, until all are done.

What is finished is a line in the file of results and is never done again. A run that crashes loses itself and nothing
else; one that is stopped goes on from its checkpoint when the experiment is run again.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from reconvene.errors import ExperimentError
from reconvene.experiments.config import Experiment, Run
from reconvene.experiments.context import SHARED
from reconvene.experiments.results import Record, append_result, of_keys, read_results
from reconvene.experiments.worker import ERROR, LOCK, RESULT, RUN
from reconvene.utils.files import write_atomic
from reconvene.utils.progress import ProgressOption, listening, note, stage, track
from reconvene.utils.progress_display import duration

_PATIENCE = 15.0  # seconds for a run that was asked to stop


@dataclass(frozen=True)
class ExperimentState:
    """Where an experiment stands: all records there are, what failed in this call and why, how many runs are left.

    Those left are of the runs that were asked for.
    """

    records: tuple[Record, ...]
    failed: dict[str, str]
    left: int


def compare(
    experiment: Experiment,
    results: Path,
    work: Path,
    *,
    seconds: float | None = None,
    only: Sequence[str] = (),
    progress: ProgressOption = None,
) -> ExperimentState:
    """Do every run of ``experiment`` that ``results`` (JSON lines) does not hold yet; ``work`` is for unfinished ones.

    Args:
        seconds: stop after so long, in the middle of a run if need be; the next call goes on from its checkpoint.
        only: words of which one at least must occur in the description of a run; all runs by default.
        progress: as for ``rc.plan``; every run that ends is a note.

    Raises:
        ExperimentError: the file of results is damaged; ``only`` fits no run; another call is at work in ``work``.
    """
    selected = select_runs(experiment, only)
    work.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(work / LOCK, timeout=0), listening(progress):
            outcome = _compare(experiment, selected, results, work, seconds)
            if not outcome.left and (work / SHARED).exists():
                shutil.rmtree(work / SHARED)
        _remove_if_empty(work)
        return outcome
    except Timeout as error:
        raise ExperimentError(
            f"another compare is at work in {work}. Wait for it, or give this one another -o"
        ) from error


def _remove_if_empty(work: Path) -> None:
    """Leave no folder of unfinished runs where none is unfinished; another call may just have begun to work in it."""
    if [path.name for path in work.iterdir()] == [LOCK]:
        with contextlib.suppress(OSError):
            (work / LOCK).unlink()
            work.rmdir()


def select_runs(experiment: Experiment, only: Sequence[str]) -> list[Run]:
    """The runs in whose description one of these words occurs; all where there are none. Raises ExperimentError."""
    selected = [run for run in experiment.runs if not only or any(word in str(run) for word in only)]
    if not selected:
        raise ExperimentError(
            f"no run has {' or '.join(map(repr, only))} in its description. --list tells what there is"
        )
    return selected


def _compare(
    experiment: Experiment, selected: list[Run], results: Path, work: Path, seconds: float | None
) -> ExperimentState:
    finished_keys = {record["key"] for record in read_results(results)}
    todo = [run for run in selected if run.key not in finished_keys]
    deadline = None if seconds is None else time.monotonic() + seconds
    failed: dict[str, str] = {}
    took: list[float] = []
    for number, run in track(enumerate(todo, start=1), "runs", total=len(todo)):
        if deadline is not None and time.monotonic() >= deadline:
            break
        start = time.monotonic()
        folder = work / run.key
        with stage(str(run), summary=False):
            trouble = _one(run, experiment.sources[run.data], folder, deadline)
        took.append(time.monotonic() - start)
        if trouble is None and (folder / RESULT).exists():
            record = json.loads((folder / RESULT).read_text(encoding="utf-8"))
            append_result(results, record)
            shutil.rmtree(folder)
            outcome = f"{record['accuracy']:.2%}"
        elif trouble is None:
            note(f"[{number}/{len(todo)}] {run}: stopped, to be continued")
            break
        else:
            failed[run.key] = trouble
            outcome = f"failed: {trouble}"
        remaining_seconds = sum(took) / len(took) * (len(todo) - number)
        note(f"[{number}/{len(todo)}] {run}: {outcome}, {took[-1]:.0f} s; about {duration(remaining_seconds)} left")
    records = read_results(results)
    left = len(selected) - len(of_keys(records, [run.key for run in selected]))
    return ExperimentState(tuple(of_keys(records, [run.key for run in experiment.runs])), failed, left)


def _one(run: Run, source: str, folder: Path, deadline: float | None) -> str | None:
    """What went wrong with one run, if anything did; it is stopped at the deadline, which is no failure."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in (ERROR, RESULT):
        (folder / name).unlink(missing_ok=True)
    write_atomic(folder / RUN, json.dumps({"run": asdict(run), "data": source}).encode(), error=ExperimentError)
    with (folder / "output.txt").open("w", encoding="utf-8") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "reconvene.experiments.worker", str(folder), str(os.getpid())],
            stdout=output,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
        )
        try:
            code = process.wait(None if deadline is None else max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            _stop(process)
            return None
        except BaseException:  # Ctrl-C above all: no run outlives the experiment
            _stop(process)
            raise
    if code == 0:
        return None
    if (folder / ERROR).exists():
        return (folder / ERROR).read_text(encoding="utf-8").strip()
    last = (folder / "output.txt").read_text(encoding="utf-8", errors="replace").strip().rpartition("\n")[2]
    return f"its process ended with {code}: {last}"


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(_PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
