"""Which outputs are class scores: what the caller states, else what labels in the data say; never a guess by shape."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from reconvene.errors import UnknownNameError

TASKS = ("classification", "regression")


def check_task(task: str | None) -> None:
    """Raise UnknownNameError for a task that is none."""
    if task is not None and task not in TASKS:
        raise UnknownNameError("task", task, TASKS)


def class_outputs(outputs: list[Tensor], targets: Tensor | None, task: str | None) -> list[int]:
    """Which of the outputs (``[N, classes, ...]``) are judged by their most likely class.

    ``classification``: every floating point output with more than one class; ``regression``: none; ``None``: those
    that the targets are labels of: integers, one for each score vector, each below the number of classes.
    """
    check_task(task)
    scores = [
        i for i, output in enumerate(outputs) if output.is_floating_point() and output.ndim > 1 and output.shape[1] > 1
    ]
    if task is None:
        return [i for i in scores if is_labelled(outputs[i], targets)]
    return scores if task == "classification" else []


def is_labelled(output: Tensor, targets: Tensor | None) -> bool:
    """Whether ``targets`` are class labels of this output."""
    if targets is None or targets.is_floating_point() or targets.is_complex() or not targets.numel():
        return False
    return targets.shape == (output.shape[0], *output.shape[2:]) and int(targets.max()) < output.shape[1]


@dataclass
class Answers:
    """The classes that a network answered over some data, by output: one class alone makes any agreement empty."""

    first: dict[str, int] = field(default_factory=dict)
    several: set[str] = field(default_factory=set)
    samples: int = 0

    def see(self, name: str, scores: Tensor) -> None:
        """Add the answers of a batch of scores ``[N, classes, ...]``."""
        answers = scores.argmax(1)
        if not answers.numel():
            return
        self.samples += len(answers)
        first = self.first.setdefault(name, int(answers.flatten()[0]))
        if bool(torch.any(answers != first)):
            self.several.add(name)

    @property
    def warning(self) -> str:
        """In words; empty where every output gave several answers, or too few samples were seen to tell."""
        single = {name: answer for name, answer in self.first.items() if name not in self.several}
        if not single or self.samples < 2:
            return ""
        listing = ", ".join(f"{name} is class {answer}" for name, answer in single.items())
        return (
            f"{listing} for every sample in float32 already, so the agreement says nothing. Is it trained, and are the "
            "statistics of its batch norms those of its data?"
        )
