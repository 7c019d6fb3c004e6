"""Who does the work: this process, a pool of processes, or a Ray cluster. A worker that dies costs one more try."""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import traceback
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from reconvene.deploy.runtimes.base import imported
from reconvene.errors import FleetError, ReconveneError
from reconvene.fleet.job import FileContents, Job, carry_out_anywhere, execute_job

TRIES = 3
_PATIENCE = 10
"""Seconds within which a cluster must answer."""
JobOutcome = tuple[Job, FileContents | str]
"""A job with its files, or with why it failed."""


def in_processes(jobs: Sequence[Job], work: str, *, workers: int) -> Iterator[JobOutcome]:
    """Outcomes as they come, from ``workers`` processes; a job whose worker died is given to another, three times.

    Nobody tells which worker broke a pool. So all jobs that were under way have one try less, and from then on work
    one by one: of those only the one that is to blame goes on losing tries.
    """
    if workers == 1 and len(jobs) == 1:
        yield jobs[0], _tried(jobs[0], work)
        return
    waiting, tries = {job["key"]: job for job in jobs}, {job["key"]: 0 for job in jobs}
    while waiting:
        fresh = [job for key, job in waiting.items() if not tries[key]]
        batch = fresh or [next(iter(waiting.values()))]
        for job, files in _pooled(batch, work, min(workers, len(batch))):
            del waiting[job["key"]]
            yield job, files
        left = [job["key"] for job in batch if job["key"] in waiting]
        begun = [key for key in left if _mark(work, key).exists()]
        for key in begun or left:  # where none had begun, workers cannot even start
            _mark(work, key).unlink(missing_ok=True)
            tries[key] += 1
            if tries[key] >= TRIES:
                yield waiting.pop(key), f"its worker died {TRIES} times. Is there enough memory? Try --workers 1"


def _pooled(jobs: Sequence[Job], work: str, workers: int) -> Iterator[JobOutcome]:
    """Outcomes of one pool, until all jobs are done or one of its workers dies."""
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"))
    try:
        with _ctrl_c_is_the_parents():
            futures = {pool.submit(_tried, job, work): job for job in jobs}
        for future in as_completed(futures):
            try:
                files = future.result()
            except BrokenProcessPool:
                continue  # the pool is gone with the worker; who was not done gets another one
            yield futures[future], files
    except BaseException:  # Ctrl-C above all: nobody waits for what is under way, nothing else is begun
        pool.shutdown(wait=False, cancel_futures=True)
        for process in multiprocessing.active_children():
            process.terminate()
        raise
    pool.shutdown()


@contextmanager
def _ctrl_c_is_the_parents() -> Iterator[None]:
    """Processes begun in the block never see Ctrl-C, which a terminal sends to all: the parent ends them."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _mark(work: str, key: str) -> Path:
    """What is there while a job is under way; it holds the number of its process."""
    return Path(work) / f"{key}.begun"


def join_ray(address: str) -> None:
    """Join a Ray cluster. Raises MissingExtraError, FleetError where it does not answer."""
    ray = imported("ray", "ray", "working on a Ray cluster")
    try:
        _knock(address)  # Ray itself goes on trying for minutes
        if not ray.is_initialized():
            ray.init(address=address, log_to_driver=False, logging_level="error")
    except (OSError, ValueError, RuntimeError) as error:
        raise FleetError(f"no Ray cluster answers at {address}: {error}. Start one with: ray start --head") from error


def on_ray(jobs: Sequence[Job]) -> Iterator[JobOutcome]:
    """Outcomes as they come, from the workers of the Ray cluster that was joined; Ray retries what died."""
    ray = imported("ray", "ray", "working on a Ray cluster")
    remote = ray.remote(max_retries=TRIES)(_tried)
    pending = {remote.remote(job): job for job in jobs}
    while pending:
        ready, _ = ray.wait(list(pending), num_returns=1)
        job = pending.pop(ready[0])
        yield job, _got(ray, ready[0])


def _knock(address: str) -> None:
    """Raise OSError where nobody listens at ``HOST:PORT``; other addresses, such as ``auto``, are Ray's to find."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host, int(port)), timeout=_PATIENCE).close()


def _got(ray: Any, reference: Any) -> FileContents | str:
    try:
        files: FileContents | str = ray.get(reference)
    except ray.exceptions.RayError as error:
        return f"its worker died {TRIES + 1} times: {str(error).splitlines()[0]}"
    return files


def _tried(job: Job, work: str | None = None) -> FileContents | str:
    """Files, or why there are none; on a cluster, where no folder ``work`` is shared, each machine has its own."""
    try:
        return carry_out_anywhere(job) if work is None else _marked(job, work)
    except Exception as error:  # noqa: BLE001 - a model of the user's own raises anything
        return _why(error)


def _marked(job: Job, work: str) -> FileContents:
    mark = _mark(work, job["key"])
    try:
        mark.write_text(str(os.getpid()), encoding="utf-8")
        return execute_job(job, work)
    finally:
        mark.unlink(missing_ok=True)


def _why(error: Exception) -> str:
    """Why a job failed, and where in the code if it is none of our errors."""
    if isinstance(error, ReconveneError | OSError):
        return f"{type(error).__name__}: {error}"
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {error} (in {last.name}, {last.filename}:{last.lineno})"
