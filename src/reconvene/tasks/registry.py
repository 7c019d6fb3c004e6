"""Tasks by name."""

from __future__ import annotations

from torch import Tensor

from reconvene.errors import UnknownNameError
from reconvene.tasks.base import Task
from reconvene.tasks.classification import Classification
from reconvene.tasks.regression import ImageToImage, Regression
from reconvene.tasks.segmentation import DistanceInstances, HoverInstances, Segmentation

OURS = (Classification(), Segmentation(), DistanceInstances(), HoverInstances(), Regression(), ImageToImage())
TASKS: dict[str, Task] = {task.name: task for task in OURS}
"""A task of your own is entered here: ``TASKS["depth"] = Depth()``."""
DEFAULT = TASKS["classification"]
"""What data is for where nobody says, and what artifacts of earlier versions, which do not say, were trained for."""


def task_compared_by(metric: str | None) -> Task:
    """The first task whose headline this metric is; the default where there is none."""
    return next((task for task in TASKS.values() if task.headline == metric), DEFAULT)


def task_named(name: str) -> Task:
    """The task of that name. Raises UnknownNameError, which lists what exists."""
    if name not in TASKS:
        advice = "For a task of your own, name its module in the environment variable RECONVENE_PLUGINS"
        raise UnknownNameError("task", name, TASKS, advice=advice)
    return TASKS[name]


def judge(output: Tensor, target: Tensor | None, task: Task | None) -> Task | None:
    """The task whose agreement an output is held to; never a guess by its shape.

    The task that was named; without one, the first that recognises the targets; else ``None``, and errors alone decide.
    """
    if task is not None:
        return task
    return next((candidate for candidate in TASKS.values() if candidate.recognises(output, target)), None)
