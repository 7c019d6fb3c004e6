"""The harness: every run of an experiment in a process of its own, until all are done.

They run one after the other, several at a time, or on a Ray cluster, to the same results. What is finished is a line in
the file of results and is never done again. A run that crashes loses itself and nothing else; one that is stopped goes
on from its checkpoint when the experiment is run again.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from reconvene.errors import ExperimentError
from reconvene.experiments.config import Experiment, Run
from reconvene.experiments.contents import earlier_contents
from reconvene.experiments.context import SHARED
from reconvene.experiments.process import execute_in_process, job_of
from reconvene.experiments.results import Record, append_result, of_keys, read_results, score_of, task_of
from reconvene.experiments.sources import require_data
from reconvene.experiments.worker import ERROR, RESULT
from reconvene.utils.executors import Job, JobOutcome, in_processes, join_ray, on_ray
from reconvene.utils.locks import alone_in
from reconvene.utils.progress import ProgressOption, listening, note, stage, track
from reconvene.utils.progress_display import duration


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
    workers: int = 1,
    ray: str | None = None,
    progress: ProgressOption = None,
) -> ExperimentState:
    """Do every run of ``experiment`` that ``results`` (JSON lines) does not hold yet; ``work`` is for unfinished ones.

    Args:
        seconds: stop after so long, in the middle of a run if need be; the next call goes on from its checkpoint.
        only: words of which one at least must occur in the description of a run; all runs by default.
        workers: runs at a time on this machine, each with as many threads as it would have alone.
        ray: address of a Ray cluster to work on instead; each node finds the data where the experiment says it lies.
        progress: as for ``rc.plan``; every run that ends is a note.

    Raises:
        ExperimentError: the file of results is damaged; ``only`` fits no run; another call is at work in ``work``; no
            cluster answers; the data of a run are not on this machine, where it is the one to do it.
        MissingExtraError: ``ray`` without the package.
    """
    selected = select_runs(experiment, only)
    if ray is not None:
        join_ray(ray, error=ExperimentError)
    work.mkdir(parents=True, exist_ok=True)
    with alone_in(work, error=ExperimentError), listening(progress):
        outcome = _compare(experiment, selected, results, work, (seconds, workers, ray))
        if not outcome.left and (work / SHARED).exists():
            shutil.rmtree(work / SHARED)
        with contextlib.suppress(OSError):  # it holds unfinished runs
            work.rmdir()
    return outcome


def select_runs(experiment: Experiment, only: Sequence[str]) -> list[Run]:
    """The runs in whose description one of these words occurs; all where there are none. Raises ExperimentError."""
    selected = [run for run in experiment.runs if not only or any(word in str(run) for word in only)]
    if not selected:
        raise ExperimentError(
            f"no run has {' or '.join(map(repr, only))} in its description. --list tells what there is"
        )
    return selected


def _compare(
    experiment: Experiment,
    selected: list[Run],
    results: Path,
    work: Path,
    how: tuple[float | None, int, str | None],
) -> ExperimentState:
    seconds, workers, ray = how
    earlier = read_results(results)
    finished_keys = {record["key"] for record in earlier}
    todo = {run.key: run for run in selected if run.key not in finished_keys}
    if ray is None:
        require_data(experiment.sources, (run.data for run in todo.values()), experiment.places)
    start = time.time()
    deadline = None if seconds is None else start + seconds
    threads = int(os.environ.get("OMP_NUM_THREADS") or torch.get_num_threads())
    jobs = [job_of(run, experiment.sources[run.data], threads=threads, deadline=deadline) for run in todo.values()]
    failed: dict[str, str] = {}
    stopped = 0
    outcomes = _outcomes(jobs, todo, work, workers, ray)
    for number, (job, files) in enumerate(track(outcomes, "runs", total=len(jobs)), start=1):
        if not files:
            stopped += 1
            continue
        if not isinstance(files, str) and RESULT in files:
            record = json.loads(files[RESULT])
            append_result(results, record)
            _note_other_images(record, earlier)
            earlier.append(record)
            shutil.rmtree(work / job["key"], ignore_errors=True)
            outcome = task_of(record).show(score_of(record))
        else:
            failed[job["key"]] = files if isinstance(files, str) else files[ERROR].decode()
            outcome = f"failed: {failed[job['key']]}"
        took = time.time() - start
        left = f"about {duration(took / number * (len(jobs) - number))} left"
        note(f"[{number}/{len(jobs)}] {todo[job['key']]}: {outcome}, after {took:.0f} s; {left}")
    if stopped:
        note(f"stopped after {seconds:g} s: {stopped} of {len(jobs)} runs are to be continued")
    records = read_results(results)
    left_count = len(selected) - len(of_keys(records, [run.key for run in selected]))
    return ExperimentState(tuple(of_keys(records, [run.key for run in experiment.runs])), failed, left_count)


def _note_other_images(record: Record, earlier: Sequence[Record]) -> None:
    """Say so where runs of the same data by name were on other images: they do not compare."""
    if commits := earlier_contents(record, earlier):
        note(
            f"other images are called {record['run']['data']!r} now than in earlier results of this file (commits "
            f"{', '.join(commits)}): accuracies of the two do not compare. Give the new images another name"
        )


def _outcomes(
    jobs: Sequence[Job], runs: Mapping[str, Run], work: Path, workers: int, ray: str | None
) -> Iterator[JobOutcome]:
    """Jobs with their files as they come."""
    if ray is not None:
        yield from on_ray(execute_in_process, jobs, "reconvene-compare")
    elif workers > 1:
        yield from in_processes(execute_in_process, jobs, str(work), workers=workers)
    else:
        for job in jobs:
            with stage(str(runs[job["key"]]), summary=False):
                files = execute_in_process(job, str(work))
            yield job, files
