"""A progress bar on stderr for work that takes over a second; nothing at all for work that does not."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import TypeVar

T = TypeVar("T")
DELAY_SECONDS = 1.0


class Bar:
    """A bar that appears once its work has taken a second, and only on a terminal. Leaving its context removes it."""

    def __init__(self, description: str, total: int, *, enabled: bool = True, done: int = 0) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        console = Console(stderr=True)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self._progress = Progress(*columns, console=console, transient=True)
        self._task = self._progress.add_task(description, total=total, completed=done)
        self._enabled = enabled and console.is_terminal
        self._due = time.monotonic() + DELAY_SECONDS
        self._running = False

    def __enter__(self) -> Bar:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._running:
            self._progress.stop()

    def advance(self, steps: int = 1, *, description: str | None = None) -> None:
        """Say that ``steps`` more are done."""
        if not self._enabled:
            return
        self._progress.update(self._task, advance=steps, description=description)
        if not self._running and time.monotonic() >= self._due:
            self._progress.start()
            self._running = True


def track(items: Iterable[T], description: str, *, total: int, enabled: bool) -> Iterator[T]:
    """Pass ``items`` on, with a bar."""
    with Bar(description, total, enabled=enabled) as bar:
        for item in items:
            yield item
            bar.advance()
