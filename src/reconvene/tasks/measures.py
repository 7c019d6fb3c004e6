"""How good a network is on a split: sums over batches, and what comes out of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from reconvene.errors import TrainingError

if TYPE_CHECKING:
    from reconvene.tasks.base import Task


class Evaluation(ABC):
    """What an evaluation after an epoch says; a dataclass of JSON types. ``loss`` is the mean over ``count`` images."""

    loss: float
    count: int

    @property
    @abstractmethod
    def metrics(self) -> dict[str, float]:
        """Every metric by name, the headline first."""

    @property
    def parts(self) -> dict[str, float]:
        """The headline by part of the data; empty where there are none."""
        return {}

    @property
    def warning(self) -> str | None:
        """What speaks against calling the network trained, in words; None where nothing does."""
        return None

    @property
    def score(self) -> float:
        """The headline."""
        return next(iter(self.metrics.values()))

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return asdict(self)  # type: ignore[call-overload,no-any-return]  # every kind is a dataclass


@dataclass(frozen=True)
class MeanEvaluation(Evaluation):
    """Means over ``count`` images."""

    means: dict[str, float]
    loss: float
    count: int
    warning: str | None = None

    @property
    def metrics(self) -> dict[str, float]:
        """Every metric by name, the headline first."""
        return self.means

    def __str__(self) -> str:
        metrics = ", ".join(f"{name} {value:.4g}" for name, value in self.means.items())
        return f"{metrics}, loss {self.loss:.4f} on {self.count} images"


class Meter(ABC):
    """Adds up what a task says of batches. ``totals`` are summed over processes before they are read."""

    totals: Tensor

    @abstractmethod
    def add(self, output: Any, target: Tensor) -> None:
        """Add a batch."""

    @abstractmethod
    def evaluation(self, totals: Tensor) -> Evaluation:
        """What the sums over all batches of all processes say."""


class MeanMeter(Meter):
    """The mean loss and the mean of every metric over examples, and what the task counts to warn of a network."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.names: list[str] = []
        self.totals = torch.zeros(0, dtype=torch.float64)

    def add(self, output: Any, target: Tensor) -> None:
        """Add a batch."""
        metrics = self.task.metrics(output, target)
        if self.task.headline not in metrics:
            raise TrainingError(
                f"the task {self.task.name} is compared by {self.task.headline!r}, but measures "
                f"{', '.join(metrics) or 'nothing'}. Its headline must be one of its metrics."
            )
        if not self.names:
            self.names = [self.task.headline, *(name for name in metrics if name != self.task.headline)]
        counts = self.task.counts(output, target).double()
        count = torch.tensor(len(target), dtype=torch.float64, device=target.device)
        values = [metrics[name].double().sum() for name in self.names]
        sums = torch.cat([torch.stack([self.task.losses(output, target).double().sum(), count, *values]), counts])
        self.totals = self.totals + sums if len(self.totals) else sums

    def evaluation(self, totals: Tensor) -> Evaluation:
        """What the sums over all batches of all processes say."""
        end = 2 + len(self.names)
        loss, count, *values = totals[:end].tolist()
        means = {name: value / count for name, value in zip(self.names, values, strict=True)}
        return MeanEvaluation(means, loss / count, int(count), self.task.doubt(means, totals[end:].cpu()))


class Assessment(ABC):
    """What is said of a trained network beyond its evaluation; a dataclass of JSON types.

    - Only beside a dense network: ``agreement``, the share of predictions that are the same.
    - Only if asked: ``corruptions``, the headline at strengths 1, 2 and 3 by corruption; ``corrupted`` is their mean.
    - ``warning``: why it is hardly a trained network, if so.
    """

    note: ClassVar[str] = ""
    """A sentence that explains the rows."""
    count: int
    agreement: float | None
    corruptions: dict[str, list[float]] | None
    corrupted: float | None
    warning: str | None

    @property
    @abstractmethod
    def score(self) -> float:
        """The headline."""

    @abstractmethod
    def rows(self) -> dict[str, str]:
        """What a table says, by the heading of the line."""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return asdict(self)  # type: ignore[call-overload,no-any-return]  # every kind is a dataclass


@dataclass(frozen=True)
class MeanAssessment(Assessment):
    """The metrics of a split, and how often predictions are those of a dense network."""

    headline: str
    metrics: Mapping[str, float]
    count: int
    agreement: float | None = None
    corruptions: dict[str, list[float]] | None = None
    corrupted: float | None = None
    warning: str | None = None
    details: dict[str, float] = field(default_factory=dict)
    """Other numbers, by the heading of the line in a table."""

    @property
    def score(self) -> float:
        """The headline."""
        return self.metrics[self.headline]

    def rows(self) -> dict[str, str]:
        """What a table says, by the heading of the line."""
        rows = {name: f"{value:.4g}" for name, value in {**self.metrics, **self.details}.items()}
        return rows | {"agreement with dense": "" if self.agreement is None else f"{self.agreement:.1%}"}
