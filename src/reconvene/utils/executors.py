"""Who does the work: a pool of processes, or a Ray cluster. A worker that dies costs one more try.

A piece of work is a *job*, plain JSON types with a ``key`` that names it, and a function at the top of a module, which
takes the job and a folder to work in, and returns files. What it leaves in the folder of its key, another try goes on
from.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import shutil
import signal
import socket
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Thread
from typing import Any

from reconvene.errors import MissingExtraError, ReconveneError

ATTEMPTS = 3
_PATIENCE = 10
"""Seconds within which a cluster must answer."""
Job = dict[str, Any]
"""A piece of work in JSON types; its ``key`` is the name of its folder."""
FileContents = dict[str, bytes]
"""Files by their path in the folder of a result."""
Execute = Callable[[Job, str], FileContents]
"""Does a job in ``folder / key``, and goes on from what an earlier try left there."""
JobOutcome = tuple[Job, FileContents | str]
"""A job with its files, or with why it failed."""


def in_processes(execute: Execute, jobs: Iterable[Job], work: str, *, workers: int) -> Iterator[JobOutcome]:
    """Outcomes as they come, from ``workers`` processes; a job whose worker died is given to another, three times.

    ``jobs`` may take their time: those that were given are at work while the next one is made.

    Nobody tells which worker broke a pool. So all jobs that were under way have one try less, and from then on work
    one by one: of those only the one that is to blame goes on losing tries.
    """
    if workers == 1 and isinstance(jobs, Sequence) and len(jobs) == 1:
        yield jobs[0], _tried(execute, jobs[0], work)
        return
    waiting: dict[str, Job] = {}
    tries: dict[str, int] = {}
    batch: Iterable[Job] = _recorded(jobs, waiting)
    while True:
        for job, files in _pooled(execute, batch, work, workers):
            del waiting[job["key"]]
            yield job, files
        left = [key for key in waiting if key not in tries or batch == [waiting[key]]]
        begun = [key for key in left if _mark(work, key).exists()]
        for key in begun or left:  # where none had begun, workers cannot even start
            _mark(work, key).unlink(missing_ok=True)
            tries[key] = tries.get(key, 0) + 1
            if tries[key] >= ATTEMPTS:
                yield waiting.pop(key), f"its worker died {ATTEMPTS} times. Is there enough memory? Try --workers 1"
        if not waiting:
            return
        fresh = [job for key, job in waiting.items() if key not in tries]
        batch = fresh or [next(iter(waiting.values()))]


def _recorded(jobs: Iterable[Job], waiting: dict[str, Job]) -> Iterator[Job]:
    """Pass jobs on, each noted under its key."""
    for job in jobs:
        waiting[job["key"]] = job
        yield job


def _pooled(execute: Execute, jobs: Iterable[Job], work: str, workers: int) -> Iterator[JobOutcome]:
    """Outcomes of one pool, until all jobs are done or one of its workers dies; all jobs are taken in any case."""
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), end_with, (os.getpid(),))
    futures: dict[Future[FileContents | str], Job] = {}
    try:
        for job in jobs:
            with _ctrl_c_is_the_parents(), suppress(BrokenProcessPool):  # a worker died meanwhile: another pool's job
                futures[pool.submit(_tried, execute, job, work)] = job
            yield from _delivered(futures, [future for future in futures if future.done()])
        yield from _delivered(futures, as_completed(list(futures)))
    except BaseException:  # Ctrl-C above all: nobody waits for what is under way, nothing else is begun
        workers_of_pool = list((pool._processes or {}).values())  # the caller may have children of its own
        pool.shutdown(wait=False, cancel_futures=True)
        for process in workers_of_pool:
            process.terminate()
        raise
    pool.shutdown()


def end_with(parent: int) -> None:
    """End this process where ``parent``, whose child it is, ends, however it ends."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    Thread(target=watch, daemon=True).start()


def _delivered(futures: dict[Future[FileContents | str], Job], done: Iterable[Future[Any]]) -> Iterator[JobOutcome]:
    """The outcomes of what is done, which leaves ``futures``; nothing of those that went with their pool."""
    for future in done:
        job = futures.pop(future)
        if not isinstance(future.exception(), BrokenProcessPool):  # who was not done gets another pool
            yield job, future.result()


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


def join_ray(address: str, *, error: type[ReconveneError]) -> None:
    """Join a Ray cluster. Raises MissingExtraError, and ``error`` where the cluster does not answer."""
    ray = _ray()
    try:
        _knock(address)  # Ray itself goes on trying for minutes
        if not ray.is_initialized():
            ray.init(address=address, log_to_driver=False, logging_level="error")
    except (OSError, ValueError, RuntimeError) as trouble:
        raise error(f"no Ray cluster answers at {address}: {trouble}. Start one with: ray start --head") from trouble


def on_ray(execute: Execute, jobs: Iterable[Job], name: str) -> Iterator[JobOutcome]:
    """Outcomes as they come, from the workers of the Ray cluster that was joined; Ray retries what died.

    ``name``: of the folder that each machine has for itself, among its temporary ones.
    """
    ray = _ray()
    remote = ray.remote(max_retries=ATTEMPTS)(_tried_anywhere)
    pending = {remote.remote(execute, job, name): job for job in jobs}
    while pending:
        ready, _ = ray.wait(list(pending), num_returns=1)
        job = pending.pop(ready[0])
        yield job, _got(ray, ready[0])


def _ray() -> Any:
    try:
        return importlib.import_module("ray")
    except ImportError as error:
        raise MissingExtraError("ray", "ray", "working on a Ray cluster") from error


def _knock(address: str) -> None:
    """Raise OSError where nobody listens at ``HOST:PORT``; other addresses, such as ``auto``, are Ray's to find."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host, int(port)), timeout=_PATIENCE).close()


def _got(ray: Any, reference: Any) -> FileContents | str:
    try:
        files: FileContents | str = ray.get(reference)
    except ray.exceptions.RayError as error:
        return f"its worker died {ATTEMPTS + 1} times: {str(error).splitlines()[0]}"
    return files


def _tried(execute: Execute, job: Job, work: str) -> FileContents | str:
    """Files, or why there are none; a mark lies in ``work`` while the job is under way."""
    mark = _mark(work, job["key"])
    try:
        mark.write_text(str(os.getpid()), encoding="utf-8")
        return execute(job, work)
    except Exception as error:  # noqa: BLE001 - a model of the user's own raises anything
        return _why(error)
    finally:
        mark.unlink(missing_ok=True)


def _tried_anywhere(execute: Execute, job: Job, name: str) -> FileContents | str:
    """The same on a machine whose folders nobody else sees; what a job leaves there goes once it has given files.

    Another try on the same machine goes on from the checkpoint of the first.
    """
    owner = os.getuid() if hasattr(os, "getuid") else None
    work = Path(tempfile.gettempdir()) / f"{name}-{'all' if owner is None else owner}"
    work.mkdir(mode=0o700, exist_ok=True)
    if owner is not None and work.stat().st_uid != owner:
        return f"{work} belongs to somebody else. Remove it on {socket.gethostname()}"
    files = _tried(execute, job, str(work))
    if files and not isinstance(files, str):
        shutil.rmtree(work / job["key"], ignore_errors=True)
    return files


def _why(error: Exception) -> str:
    """Why a job failed, and where in the code if it is none of our errors."""
    if isinstance(error, ReconveneError | OSError):
        return f"{type(error).__name__}: {error}"
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {error} (in {last.name}, {last.filename}:{last.lineno})"
