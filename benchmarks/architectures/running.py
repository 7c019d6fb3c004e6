"""Models in processes of their own, under limits of time and memory.

A server process imports everything once and forks a child for each model, so that a model starts in milliseconds and
ends without a trace. Memory is watched from outside: a limit on the address space would count what torch only reserves.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Limits:
    """What one model may take, how many run at a time, and when no more begin."""

    seconds: float = 300
    gigabytes: float = 9
    jobs: int = 2
    total: float | None = None
    """Seconds after which no model is started."""


@dataclass
class Running:
    """A model being judged."""

    name: str
    process: BaseProcess
    results: Connection
    started: float
    record: dict[str, Any] = field(default_factory=dict)
    peak: int = 0

    def look(self, limits: Limits) -> bool:
        """Read what the child has told, hold it to its limits; whether it is done."""
        alive = self.process.is_alive()
        try:
            while self.results.poll():
                self.record = self.results.recv()
        except EOFError:
            alive = False
        if "verdict" in self.record or not alive:
            return True
        self.peak = max(self.peak, resident(self.process.pid))
        seconds = time.monotonic() - self.started
        if seconds > limits.seconds:
            self.end(f"time limit of {limits.seconds:.0f} s")
        elif self.peak > limits.gigabytes * 2**30:
            self.end(f"memory limit of {limits.gigabytes:g} GiB")
        return "verdict" in self.record

    def end(self, why: str) -> None:
        """Stop the child, and let the record say why."""
        self.process.kill()
        stage = self.record.get("stage", "start")
        self.record |= {"error": f"{stage}: {why}", "verdict": f"failed ({stage}: {why})"}

    def finished(self) -> dict[str, Any]:
        """The record of a child that is done, however it ended."""
        self.process.join(5)
        if "verdict" not in self.record:
            self.end(f"the process ended with code {self.process.exitcode}")
        self.record |= {"name": self.name, "source": self.name.partition("/")[0]}
        self.record.setdefault("seconds", round(time.monotonic() - self.started, 3))
        self.record.setdefault("peak_rss_mib", round(self.peak / 2**20))
        self.results.close()
        return self.record


Judge = Callable[[str, Connection], None]
"""Run in a process of its own: judges what has this name, and sends records."""


def run_all(
    names: Sequence[str], limits: Limits, judge: Judge, *, preload: str = "architectures.preload"
) -> Iterator[dict[str, Any]]:
    """The record of every name, as they are done, or of as many as the time allows.

    ``preload`` is imported before the processes fork.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([preload])
    waiting = list(reversed(names))
    running: list[Running] = []
    last = time.monotonic() + (float("inf") if limits.total is None else limits.total)
    while waiting or running:
        if time.monotonic() > last:
            waiting.clear()
        while waiting and len(running) < limits.jobs:
            running.append(start(context, waiting.pop(), judge))
        time.sleep(0.05)
        for one in [one for one in running if one.look(limits)]:
            running.remove(one)
            yield one.finished()


def start(context: Any, name: str, judge: Judge) -> Running:
    """Begin with one name."""
    receive, send = context.Pipe(duplex=False)
    process = context.Process(target=judge, args=(name, send), daemon=True)
    process.start()
    send.close()
    return Running(name, process, receive, time.monotonic())


def resident(pid: int | None) -> int:
    """Resident bytes of a process, 0 where it is gone or the system does not say."""
    try:
        for line in Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines():
            if line.startswith("VmRSS"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError):
        pass
    return 0
