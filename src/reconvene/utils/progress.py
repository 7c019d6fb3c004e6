"""Progress of work that takes a while: one mechanism for the command line, for Python and for notebooks.

Work anywhere in the package says what it does: ``with stage("training", total=100) as work: work.advance()``. Who shows
it is decided once, at the top: the command line opens a ``Display``, and a public function listens as its ``progress``
says (``listening``). Work to which nobody listens costs one look-up of a context variable.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Protocol, TypeVar

T = TypeVar("T")
ProgressOption = bool | Callable[[int, int, str], object] | None
"""How a caller hears of progress.

``None``: a line on a terminal or in a notebook, nothing elsewhere; ``True``: lines elsewhere too; ``False``: nothing. A
callable receives how many pieces of work are done, of how many, and what is at work.
"""


class Stage:
    """A piece of work that is under way: what it does, and how many of how many parts are done, where that is known."""

    def __init__(self, description: str, total: int | None, done: int, listener: Listener | None) -> None:
        self.description, self.total, self.done, self.detail = description, total, done, ""
        self.started, self._resumed_at, self._listener = time.monotonic(), done, listener

    def advance(self, count: int = 1, *, detail: str | None = None) -> None:
        """Say that ``count`` more parts are done; ``detail`` says which, or how well."""
        self.move_to(self.done + count, detail=detail)

    def move_to(self, done: int, *, detail: str | None = None) -> None:
        """Say that ``done`` parts are done in all."""
        self.done, self.detail = done, self.detail if detail is None else detail
        if self._listener is not None:
            self._listener.advance(self)

    @property
    def elapsed(self) -> float:
        """Seconds since the work began."""
        return time.monotonic() - self.started

    @property
    def remaining(self) -> float | None:
        """Seconds that the work is expected to take from now on; ``None`` before its first part is done."""
        now_done = self.done - self._resumed_at
        if self.total is None or now_done <= 0:
            return None
        return self.elapsed * max(self.total - self.done, 0) / now_done


class Listener(Protocol):
    """Hears of all work that is done in its context."""

    def begin(self, work: Stage) -> None:
        """Hear that work begins."""

    def advance(self, work: Stage) -> None:
        """Hear that more of it is done."""

    def end(self, work: Stage, *, summary: bool) -> None:
        """Hear that it has ended; ``summary``: it is done, and may leave a line."""

    def note(self, text: str) -> None:
        """Hear a line about the work at hand."""


class _Nobody:
    """Listens to nothing, and keeps those further down from listening."""

    def begin(self, work: Stage) -> None: ...

    def advance(self, work: Stage) -> None: ...

    def end(self, work: Stage, *, summary: bool) -> None: ...

    def note(self, text: str) -> None: ...


class _Callback(_Nobody):
    """Hands progress to a function of the caller's: of the outermost work that has parts, and the names of others."""

    def __init__(self, function: Callable[[int, int, str], object]) -> None:
        self._function, self._counted = function, list[Stage]()

    def begin(self, work: Stage) -> None:
        if work.total is not None:
            self._counted.append(work)
        elif not self._counted:
            self._function(0, 1, work.description)

    def advance(self, work: Stage) -> None:
        if self._counted and self._counted[0] is work and work.total is not None:
            self._function(work.done, work.total, work.detail or work.description)

    def end(self, work: Stage, *, summary: bool) -> None:
        if work in self._counted:
            self._counted.remove(work)


class _Notes(_Nobody):
    """Hands notes to a function."""

    def __init__(self, function: Callable[[str], object]) -> None:
        self._function = function

    def note(self, text: str) -> None:
        self._function(text)


_LISTENER: ContextVar[Listener | None] = ContextVar("reconvene_progress", default=None)


@contextmanager
def stage(description: str, total: int | None = None, *, done: int = 0, summary: bool = True) -> Iterator[Stage]:
    """Say that ``description`` is at work.

    Args:
        description: what is done, such as ``training on digits``.
        total: of how many parts the work is; ``None`` where nobody knows.
        done: how many of them were done before.
        summary: leave a line with the time it took, where the display keeps such lines.
    """
    listener = _LISTENER.get()
    work = Stage(description, total, done, listener)
    if listener is None:
        yield work
        return
    listener.begin(work)
    finished = False
    try:
        yield work
        finished = True
    finally:
        listener.end(work, summary=summary and finished)


def track(items: Iterable[T], description: str, *, total: int | None) -> Iterator[T]:
    """Pass ``items`` on and say how many have been worked on, of ``total`` where that is known. Leaves no line."""
    with stage(description, total, summary=False) as work:
        for item in items:
            yield item
            work.advance()


def note(text: str) -> None:
    """Say a line about the work at hand, such as what a measurement gave."""
    if (listener := _LISTENER.get()) is not None:
        listener.note(text)


@contextmanager
def listened_by(listener: Listener) -> Iterator[None]:
    """Within: ``listener`` hears of all work."""
    token = _LISTENER.set(listener)
    try:
        yield
    finally:
        _LISTENER.reset(token)


@contextmanager
def notes_to(function: Callable[[str], object]) -> Iterator[None]:
    """Within: ``function`` receives every note, and nothing is shown."""
    with listened_by(_Notes(function)):
        yield


@contextmanager
def listening(progress: ProgressOption) -> Iterator[None]:
    """Within: progress goes where the caller of a public function wants it; see ``ProgressOption``.

    Where somebody listens already, ``None`` and ``True`` leave it at that: a step of a longer way shows nothing twice.
    """
    if callable(progress):
        with listened_by(_Callback(progress)):
            yield
    elif progress is False:
        with listened_by(_Nobody()):
            yield
    elif _LISTENER.get() is not None or not (progress or _is_watched()):
        yield
    else:
        from reconvene.utils.progress_display import Display

        with Display() as display, listened_by(display):
            yield


def is_first_process() -> bool:
    """Whether this process speaks: under torchrun only the first one does."""
    return int(os.environ.get("RANK", "0")) == 0


def _is_watched() -> bool:
    """Whether somebody sees a line that is written over."""
    return is_first_process() and (in_notebook() or (sys.stderr is not None and sys.stderr.isatty()))


def in_notebook() -> bool:
    """Whether this is a notebook, whose output shows lines that are written over."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return getattr(shell, "kernel", None) is not None
