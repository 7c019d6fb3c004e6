"""What a person who waits sees on stderr: the step at work, and how long each step took."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from reconvene.cli import is_first


@contextmanager
def steps(description: str, own_bar: bool) -> Iterator[None]:
    """Show that ``description`` is at work, and for how long, then leave a line that says it is done.

    On a terminal work shows a running clock; a step with a progress bar of its own is left to it.
    """
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    console = Console(stderr=True, highlight=False)
    start = time.monotonic()
    if console.is_terminal and is_first() and not own_bar:
        columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn())
        with Progress(*columns, console=console, transient=True) as progress:
            progress.add_task(description, total=None)
            yield
    else:
        yield
    if is_first():
        print(f"{description}: {time.monotonic() - start:.1f} s", file=sys.stderr, flush=True)


def say(line: str) -> None:
    """A line of what is at work within a step."""
    if is_first():
        print(f"  {line}", file=sys.stderr, flush=True)


@contextmanager
def bars() -> Iterator[Callable[[int, int, str], None]]:
    """A bar for each piece of work that tells how much of it is done: ``show(done, total, what)``."""
    from reconvene.data.progress import Bar

    with ExitStack() as stack:
        bar, last, of = Bar("", 1), 0, 0

        def show(done: int, total: int, name: str) -> None:
            nonlocal bar, last, of
            if total != of or done < last:
                stack.close()
                bar, last, of = stack.enter_context(Bar(name, total, enabled=is_first())), 0, total
            bar.advance(done - last, description=name)
            last = done

        yield show
