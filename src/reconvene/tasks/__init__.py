"""What networks are trained for: classification, segmentation, regression, or a task of the user's own."""

from reconvene.tasks import metrics
from reconvene.tasks.base import Augmentation, Picture, Targets, Task, Witnesses
from reconvene.tasks.measures import Assessment, Evaluation, Meter
from reconvene.tasks.registry import DEFAULT, TASKS, judge, task_compared_by, task_named

__all__ = [
    "DEFAULT",
    "TASKS",
    "Assessment",
    "Augmentation",
    "Evaluation",
    "Meter",
    "Picture",
    "Targets",
    "Task",
    "Witnesses",
    "judge",
    "metrics",
    "task_compared_by",
    "task_named",
]
