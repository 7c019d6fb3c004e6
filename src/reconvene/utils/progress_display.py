"""Progress on a terminal or in a notebook: one line that is written over; elsewhere a line now and then."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any, TextIO

from reconvene.utils.escaping import printable
from reconvene.utils.progress import Stage, in_notebook

DELAY, REFRESH = 1.0, 0.2
"""Seconds before work is shown, and between two looks at it."""
FIRST_LINE, LINES_APART = 2.0, 30.0
"""Seconds before the first line, and between two lines, where a line cannot be written over."""
BAR_WIDTH = 16
_FINE, _PLAIN = ("━", "─", "›", "…"), ("#", "-", ">", "~")
"""A part that is done, one that is not, what stands between works, and the end of a line that is cut."""


class Display:
    """Shows the work at hand, how much of it is done, and an estimate of the rest. A ``Listener``, and a context.

    A thread of its own keeps the clock running while work is deep in one call. Work that is done leaves a line where
    ``keep`` is set; else nothing stays behind.

    Args:
        title: what is shown while no work has said what it does.
        keep: leave a line for all work at the top level, and for notes.
        stream: where to write; by default stderr, in a notebook its output.
    """

    def __init__(self, title: str = "", *, keep: bool = False, stream: TextIO | None = None) -> None:
        notebook = in_notebook()
        self._stream = stream or (sys.stdout if notebook else sys.stderr)
        self._rewrites = notebook or self._stream.isatty()
        self._title, self._keep = title, keep
        self._signs = _FINE if self._encodable("".join(_FINE)) == "".join(_FINE) else _PLAIN
        self._stages: list[Stage] = []
        self._lock, self._closed = threading.RLock(), threading.Event()
        self._began = self._idle_since = time.monotonic()
        self._next_line = self._began + FIRST_LINE
        self._drawn = 0
        self._process = os.getpid()
        self._thread = threading.Thread(target=self._run, name="reconvene-progress", daemon=True)

    def __enter__(self) -> Display:
        self._thread.start()
        return self

    def __exit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closed.set()
        if os.getpid() == self._process:
            self._thread.join()
            with self._lock:
                self._erase()

    @property
    def output(self) -> Any:
        """A stream for others to write to, which makes room first."""
        return _Output(self)

    def begin(self, work: Stage) -> None:
        """Show this work, inside what is at work already."""
        if self._is_here():
            with self._lock:
                self._stages.append(work)

    def advance(self, work: Stage) -> None:
        """Nothing: the clock looks by itself, so that work is not held up."""

    def end(self, work: Stage, *, summary: bool) -> None:
        """Show this work no longer."""
        if not self._is_here():
            return
        with self._lock:
            self._stages.remove(work)
            if not self._stages:
                self._idle_since = time.monotonic()
                if summary and self._keep:
                    self._write_line(f"{work.description}: {work.elapsed:.1f} s")

    def note(self, text: str) -> None:
        """A line of its own, or where nothing is kept a word about the work at hand."""
        if not self._is_here():
            return
        with self._lock:
            if self._keep:
                self._write_line(text if "\n" in text else f"  {text}")
            elif self._stages:
                self._stages[-1].detail = text

    def write(self, text: str) -> None:
        """Write text of others where the line was."""
        with self._lock:
            self._erase()
            self._stream.write(text)

    def _is_here(self) -> bool:
        """Whether this is the process that shows: a child that was forked has no thread, and no lock to rely on."""
        return os.getpid() == self._process

    def _run(self) -> None:
        while not self._closed.wait(REFRESH):
            with self._lock:
                if self._closed.is_set() or not (self._stages or self._title):
                    continue
                if self._rewrites:
                    self._draw()
                elif self._stages:
                    self._tell()

    def _draw(self) -> None:
        if self._drawn or self._title or time.monotonic() - self._waiting_since >= DELAY:
            text = self._encodable(_fitted(self._line(), self._columns(), self._signs[3]))
            self._stream.write(f"\r{text}{' ' * (self._drawn - len(text))}")
            self._stream.flush()
            self._drawn = len(text)

    def _tell(self) -> None:
        """A line for a log: soon after work began, then seldom."""
        if time.monotonic() - self._waiting_since >= FIRST_LINE and time.monotonic() >= self._next_line:
            self._write_line(f"... {self._line(bar=False)}")

    @property
    def _waiting_since(self) -> float:
        return self._stages[0].started if self._stages else self._idle_since

    def _line(self, *, bar: bool = True) -> str:
        """How much is done, for how long it has been at work, what is left; then the work at hand, outermost first."""
        if not self._stages:
            return f"{duration(time.monotonic() - self._began)} | {self._title}"
        path = f" {self._signs[2]} ".join(_with_count(work) for work in self._stages)
        counted = [work for work in self._stages if work.total and work.done < work.total]
        measured = next((work for work in counted if work.remaining is not None), counted[-1] if counted else None)
        clock = duration(self._stages[0].elapsed)
        if measured is None:
            return f"{clock} | {path}{_detail(self._stages[-1])}"
        assert measured.total is not None
        drawn = f"{_bar(measured.done / measured.total, self._signs)} " if bar else ""
        left = "" if measured.remaining is None else f", about {duration(measured.remaining)} left"
        return f"{drawn}{measured.done / measured.total:.0%} {clock}{left} | {path}{_detail(self._stages[-1])}"

    def _write_line(self, text: str) -> None:
        self._erase()
        self._stream.write(self._encodable(printable(text)) + "\n")
        self._stream.flush()
        self._next_line = time.monotonic() + LINES_APART

    def _erase(self) -> None:
        if self._drawn:
            self._stream.write(f"\r{' ' * self._drawn}\r")
            self._stream.flush()
            self._drawn = 0

    def _encodable(self, text: str) -> str:
        encoding = getattr(self._stream, "encoding", None) or "utf-8"
        return text.encode(encoding, "backslashreplace").decode(encoding)

    def _columns(self) -> int:
        try:
            return os.get_terminal_size(self._stream.fileno()).columns or 80
        except (OSError, ValueError, AttributeError):  # a notebook, or a stream without a terminal
            return 100


class _Output:
    """The stream of a display for others, with all that streams have."""

    def __init__(self, display: Display) -> None:
        self._display = display

    def write(self, text: str) -> int:
        self._display.write(text)
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._display._stream, name)


def duration(seconds: float) -> str:
    """A time as people say it: ``12 s``, ``3 min``, ``1.5 h``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _with_count(work: Stage) -> str:
    return f"{work.description} {work.done:,}/{work.total:,}" if work.total else work.description


def _detail(work: Stage) -> str:
    return f": {work.detail}" if work.detail else ""


def _bar(share: float, signs: Sequence[str]) -> str:
    filled = round(BAR_WIDTH * min(max(share, 0.0), 1.0))
    return signs[0] * filled + signs[1] * (BAR_WIDTH - filled)


def _fitted(text: str, columns: int, end: str) -> str:
    """One line of text that a terminal does not break."""
    line = " ".join(printable(text).split())
    return line if len(line) < columns else line[: max(columns - 2, 1)] + end
