"""Who does the work: this process, a pool of processes, or a Ray cluster. A worker that dies costs one more try."""

from __future__ import annotations

import multiprocessing
import signal
import socket
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from reconvene.deploy.runtime import imported
from reconvene.errors import FleetError, ReconveneError
from reconvene.fleet.work import Files, Job, carry_out, carry_out_anywhere

TRIES = 3
PATIENCE = 10
"""Seconds within which a cluster must answer."""
Outcome = tuple[Job, Files | str]
"""A job with its files, or with why it failed."""


def in_processes(jobs: Sequence[Job], work: str, *, workers: int) -> Iterator[Outcome]:
    """Outcomes as they come, from ``workers`` processes; a job whose worker died is given to another, three times."""
    if workers == 1 and len(jobs) == 1:
        yield jobs[0], _tried(jobs[0], work)
        return
    waiting, tries = list(jobs), {job["key"]: 0 for job in jobs}
    while waiting:
        finished: set[str] = set()
        context = multiprocessing.get_context("spawn")
        pool = ProcessPoolExecutor(min(workers, len(waiting)), context, initializer=_leave_ctrl_c_to_the_parent)
        try:
            futures = {pool.submit(_tried, job, work): job for job in waiting}
            for future in as_completed(futures):
                job = futures[future]
                try:
                    files = future.result()
                except BrokenProcessPool:
                    continue  # the pool is gone with the worker; who was not done gets another one
                finished.add(job["key"])
                yield job, files
        except BaseException:  # Ctrl-C above all: nobody waits for what is under way, nothing else is begun
            pool.shutdown(wait=False, cancel_futures=True)
            for process in multiprocessing.active_children():
                process.terminate()
            raise
        pool.shutdown()
        waiting = [job for job in waiting if job["key"] not in finished]
        for job in list(waiting):
            tries[job["key"]] += 1
            if tries[job["key"]] >= TRIES:
                waiting.remove(job)
                yield job, f"its worker died {TRIES} times. Is there enough memory? Try --workers 1"


def _leave_ctrl_c_to_the_parent() -> None:
    """A terminal sends it to all of its processes; the parent ends this one."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def join_ray(address: str) -> None:
    """Join a Ray cluster. Raises MissingExtraError, FleetError where it does not answer."""
    ray = imported("ray", "ray", "working on a Ray cluster")
    try:
        _knock(address)  # Ray itself goes on trying for minutes
        if not ray.is_initialized():
            ray.init(address=address, log_to_driver=False, logging_level="error")
    except (OSError, ValueError, RuntimeError) as error:
        raise FleetError(f"no Ray cluster answers at {address}: {error}. Start one with: ray start --head") from error


def on_ray(jobs: Sequence[Job]) -> Iterator[Outcome]:
    """Outcomes as they come, from the workers of the Ray cluster that was joined; Ray retries what died."""
    ray = imported("ray", "ray", "working on a Ray cluster")
    remote = ray.remote(max_retries=TRIES)(_tried_anywhere)
    pending = {remote.remote(job): job for job in jobs}
    while pending:
        ready, _ = ray.wait(list(pending), num_returns=1)
        job = pending.pop(ready[0])
        yield job, _got(ray, ready[0])


def _knock(address: str) -> None:
    """Raise OSError where nobody listens at ``HOST:PORT``; other addresses, such as ``auto``, are Ray's to find."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host, int(port)), timeout=PATIENCE).close()


def _got(ray: Any, reference: Any) -> Files | str:
    try:
        files: Files | str = ray.get(reference)
    except ray.exceptions.RayError as error:
        return f"its worker died {TRIES + 1} times: {str(error).splitlines()[0]}"
    return files


def _tried(job: Job, work: str) -> Files | str:
    """Trouble with one job is that job's result: errors of ours do not all survive the way between processes."""
    try:
        return carry_out(job, work)
    except (ReconveneError, OSError) as error:
        return f"{type(error).__name__}: {error}"


def _tried_anywhere(job: Job) -> Files | str:
    try:
        return carry_out_anywhere(job)
    except (ReconveneError, OSError) as error:
        return f"{type(error).__name__}: {error}"
