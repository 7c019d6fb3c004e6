"""The headline of a task, as the page writes it."""

from __future__ import annotations

from reconvene.tasks import Task
from reconvene.utils import numbers


def format_score(value: float, task: Task) -> str:
    """A share, or a number."""
    if task.is_share:
        return numbers.share(value)
    return f"{value:.3f}" if abs(value) < 10 else numbers.digits(value)


def change(value: float, task: Task) -> str:
    """The difference of two scores."""
    return numbers.points(value) if task.is_share else f"{value:+.3f}".replace("-", numbers.MINUS)


def title(name: str) -> str:
    """The name of a metric as a heading: ``Accuracy``, ``Dice``, ``PQ``."""
    return name.upper() if len(name) <= 3 else name.capitalize()
