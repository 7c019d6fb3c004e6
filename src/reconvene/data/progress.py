"""A progress bar on stderr for work that takes over a second; nothing at all for work that does not."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

_T = TypeVar("_T")
DELAY_SECONDS = 1.0


class Bar:
    """A bar that appears once its work has taken a second, and only on a terminal. Leaving its context removes it."""

    def __init__(self, description: str, total: int, *, enabled: bool = True, completed: int = 0) -> None:
        self._description, self._total, self._completed = description, total, completed
        self._due = time.monotonic() + DELAY_SECONDS if enabled and sys.stderr.isatty() else math.inf
        self._shown: tuple[Progress, TaskID] | None = None

    def __enter__(self) -> Bar:
        return self

    def __exit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._shown is not None:
            self._shown[0].stop()

    def advance(self, steps: int = 1, *, description: str | None = None) -> None:
        """Say that ``steps`` more are done."""
        self._completed += steps
        self._description = description or self._description
        if self._shown is not None:
            progress, task = self._shown
            progress.update(task, completed=self._completed, description=self._description)
        elif time.monotonic() >= self._due:
            self._shown = self._show()

    def _show(self) -> tuple[Progress, TaskID]:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        progress = Progress(*columns, console=Console(stderr=True), transient=True)
        task = progress.add_task(self._description, total=self._total, completed=self._completed)
        progress.start()
        return progress, task


def track(items: Iterable[_T], description: str, *, total: int, enabled: bool) -> Iterator[_T]:
    """Pass ``items`` on, with a bar."""
    with Bar(description, total, enabled=enabled) as bar:
        for item in items:
            yield item
            bar.advance()
