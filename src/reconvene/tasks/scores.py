"""Scores of classes along dimension 1, of an image or of every pixel: the same arithmetic for both."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from reconvene.tasks.base import Witness


def are_scores(output: Tensor) -> bool:
    """Whether a tensor can hold scores of classes: floating point ``[N, classes, ...]`` with more than one class."""
    return output.is_floating_point() and output.ndim > 1 and output.shape[1] > 1


def are_labels(output: Tensor, target: Tensor | None) -> bool:
    """Whether ``target`` holds classes of this output: one integer a score vector, each below the number of classes."""
    if target is None or target.is_floating_point() or target.is_complex() or not target.numel():
        return False
    if not are_scores(output):
        return False
    return target.shape == (output.shape[0], *output.shape[2:]) and int(target.max()) < output.shape[1]


def same_class(reference: Tensor, output: Tensor, tie: float | None) -> Tensor | None:
    """Where the most likely classes are the same, ``[N, 1, ...]``; ``None`` where the outputs are no scores.

    With a ``tie``, classes whose scores in ``reference`` are no further apart count as the same.
    """
    if not are_scores(reference):
        return None
    first, second = reference.argmax(1, keepdim=True), output.argmax(1, keepdim=True)
    if tie is None:
        return first == second
    return reference.gather(1, first) - reference.gather(1, second) <= tie


def soft_loss(scores: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """``T^2 KL(softmax(teacher / T) || softmax(scores / T))`` in nats, the mean over all score vectors."""
    student, teacher_shares = ((values / temperature).log_softmax(1) for values in (scores, teacher))
    vectors = scores.numel() // scores.shape[1]
    divergence = torch.nn.functional.kl_div(student, teacher_shares, reduction="sum", log_target=True)
    return temperature**2 * (divergence / vectors)


def class_counts(answers: Tensor, target: Tensor, classes: int) -> Tensor:
    """How often each class is answered, and how often it is right, ``[2 * classes]``."""
    labels = [values[(values >= 0) & (values < classes)].long() for values in (answers, target)]
    return torch.cat([torch.bincount(values, minlength=classes) for values in labels])


def one_class_doubt(counts: Tensor, names: Sequence[str] = ()) -> str | None:
    """A warning where one class is answered everywhere though there are several; ``counts`` as ``class_counts``."""
    answered, there = counts.chunk(2)
    if int((answered > 0).sum()) != 1 or int((there > 0).sum()) < 2:
        return None
    label = int(answered.argmax())
    name = names[label] if label < len(names) else f"class {label}"
    return f"the network answers {name} for every pixel, where the maps have it for {there[label] / there.sum():.2%}"


class ClassWitness(Witness):
    """The classes that a network answered over some data, by output: one class alone makes any agreement empty."""

    def __init__(self) -> None:
        self.first: dict[str, int] = {}
        self.several: set[str] = set()
        self.samples = 0

    def see(self, name: str, output: Tensor) -> None:
        """Add the answers of a batch of scores ``[N, classes, ...]``."""
        if not are_scores(output) or not output.numel():
            return
        answers = output.argmax(1)
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
