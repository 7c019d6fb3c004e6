"""How a step tells whoever waits that it is at work, without knowing who that is."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

Steps = Callable[[str, bool], AbstractContextManager[None]]
"""``with steps("pruning", False): ...``; the flag says that the step shows a progress bar of its own."""


def quiet(description: str, own_bar: bool) -> AbstractContextManager[None]:
    """Tell nobody."""
    return nullcontext()
