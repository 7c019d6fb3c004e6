"""ONNX Runtime as the probe opens it, and whole networks timed in it. Imports nothing of Reconvene: see ``probe``."""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

NetworkSpec = tuple[Sequence[Sequence[int]], bytes]
"""A whole network: its layers ``(number in jobs, in, out)`` in the order of the calls, and its ONNX file."""
ROUNDS, RUNS, WARMUPS, PACES = 7, 10, 2, 15
# So much slower than at its best is disturbed.
SLOW = 1.15
_KINDS = {"tensor(float)": np.float32, "tensor(int64)": np.int64, "tensor(int32)": np.int32, "tensor(bool)": np.bool_}


def open_session(model: bytes, threads: int, *, profiled: bool) -> tuple[Any, Any]:
    """A session with so many threads within an operator, and the folder its profile goes to."""
    import onnxruntime

    folder = tempfile.TemporaryDirectory(prefix="reconvene-probe-")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3
    options.enable_profiling = profiled
    options.profile_file_prefix = os.path.join(folder.name, "run")
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"]), folder


def kernel_times(session: Any) -> dict[str, list[int]]:
    """Microseconds of every run of every node, from the runtime's own record, which is removed."""
    path = Path(session.end_profiling())
    events = json.loads(path.read_text(encoding="utf-8"))
    path.unlink()
    nodes: dict[str, list[int]] = {}
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            nodes.setdefault(event["name"], []).append(event["dur"])
    return nodes


class Pace:
    """How fast the device is just now: the seconds of one small graph, timed again and again.

    Where others share the processor, it is half as fast for seconds at a time, and no clock of ours tells. What is
    measured between two readings that are near the best of all was measured undisturbed.

    ``best`` is what is known of the least so far.
    """

    def __init__(self, model: bytes, threads: int, best: float = float("inf")) -> None:
        self._session, self._folder = open_session(model, threads, profiled=False)
        self._feeds = _feeds(self._session)
        self.best, self.last = best, 0.0

    def now(self) -> float:
        """Seconds on the wall, the median of a few runs."""
        runs = []
        for _ in range(WARMUPS + PACES):
            begin = time.perf_counter()
            self._session.run(None, self._feeds)
            runs.append(time.perf_counter() - begin)
        self.last = float(np.median(runs[WARMUPS:]))
        self.best = min(self.best, self.last)
        return self.last

    def disturbed(self) -> bool:
        """Whether the device was slowed just now or at the reading before."""
        return max(self.last, self.now()) > SLOW * self.best

    def learn(self, duration: float) -> None:
        """Look again and again for so many seconds, to know its best pace."""
        end = time.perf_counter() + duration
        while time.perf_counter() < end:
            self.now()

    def wait(self, patience: float) -> float:
        """Work until the device is at its best pace, at most so many seconds; returns how many it took.

        Work, not sleep: a processor that has rested is slow for a while (1.4 times on a virtual machine of ours).
        """
        begin = time.perf_counter()
        while self.now() > SLOW * self.best and time.perf_counter() - begin < patience:
            pass
        return time.perf_counter() - begin

    def close(self) -> None:
        """Remove what the session left on the disk."""
        self._folder.cleanup()


def time_networks(networks: Sequence[NetworkSpec], threads: int) -> list[float]:
    """Seconds of whole networks, one sample: the lower quartile over rounds, each network warm when it is timed.

    Processor time of the thread, or time on the wall where there are several threads. The slower rounds are those in
    which others shared the processor.
    """
    clock = time.thread_time if threads == 1 else time.perf_counter
    sessions = [open_session(model, threads, profiled=False) for _, model in networks]
    feeds = [_feeds(session) for session, _ in sessions]
    round_seconds = np.zeros((ROUNDS, len(sessions)))
    for round_ in range(ROUNDS):
        for number, (session, _) in enumerate(sessions):
            runs = []
            for _ in range(WARMUPS + RUNS):
                begin = clock()
                session.run(None, feeds[number])
                runs.append(clock() - begin)
            round_seconds[round_, number] = np.median(runs[WARMUPS:])
    for _, folder in sessions:
        folder.cleanup()
    return [round(float(took), 9) for took in np.quantile(round_seconds, 0.25, axis=0)]


def _feeds(session: Any) -> dict[str, np.ndarray[Any, Any]]:
    """Something for every input of a network, one sample of it."""
    feeds: dict[str, np.ndarray[Any, Any]] = {}
    for entry in session.get_inputs():
        shape = [size if isinstance(size, int) else 1 for size in entry.shape]
        feeds[entry.name] = np.resize(np.linspace(-1, 1, 997), shape).astype(_KINDS[entry.type])
    return feeds
