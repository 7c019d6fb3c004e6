"""Tasks by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from reconvene.errors import UnknownNameError
from reconvene.tasks.base import Task
from reconvene.tasks.classification import Classification
from reconvene.tasks.regression import ImageToImage, Regression

TASKS: dict[str, Task] = {task.name: task for task in (Classification(), Regression(), ImageToImage())}
"""A task of your own is entered here: ``TASKS["depth"] = Depth()``."""
DEFAULT = TASKS["classification"]
"""What data is for where nobody says, and what artifacts of earlier versions, which do not say, were trained for."""


def task_named(name: str) -> Task:
    """The task of that name. Raises UnknownNameError, which lists what exists."""
    if name not in TASKS:
        raise UnknownNameError("task", name, TASKS)
    return TASKS[name]


def task_of(record: Mapping[str, Any] | None) -> Task:
    """The task that a record of an artifact (of its data, its training) names. Raises UnknownNameError."""
    return DEFAULT if record is None or "task" not in record else task_named(record["task"])


def training_record(record: Mapping[str, Any]) -> dict[str, Any]:
    """What an artifact says of its training, in the names of today.

    Releases that knew classification alone wrote ``accuracy`` and ``per_class`` for ``metrics`` and ``parts``.
    """
    if "metrics" in record:
        return dict(record)
    values = dict(record)
    values |= {"metrics": {DEFAULT.headline: values.pop(DEFAULT.headline)}, "parts": values.pop("per_class", {})}
    for name in ("teacher", "quantised"):
        if values.get(name) is not None:
            part = dict(values[name])
            values[name] = {**part, "score": part.pop(DEFAULT.headline)}
    return values


def judge(output: Tensor, target: Tensor | None, task: Task | None) -> Task | None:
    """The task whose agreement an output is held to; never a guess by its shape.

    The task that was named; without one, the first that recognises the targets; else ``None``, and errors alone decide.
    """
    if task is not None:
        return task
    return next((candidate for candidate in TASKS.values() if candidate.recognises(output, target)), None)
