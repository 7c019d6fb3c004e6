"""What every criterion is given, and what it gives back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from reconvene.criteria.topk import Exact
from reconvene.criteria.weights import Layout

Loss = Callable[[Any, Any], Tensor]
Objective = Callable[[Mapping[str, Tensor] | None], float]


@dataclass(frozen=True, eq=False)
class Subject:
    """A model to be scored, and everything a criterion may want to look at."""

    model: nn.Module
    example_inputs: Any
    layout: Layout
    data: Iterable[Any] | None = None
    loss: Loss | None = None
    seed: int = 0
    small: bool = False  # whether a flow criterion may use a smaller input than the given one


class Scorer(Protocol):
    """A criterion at work on one subject."""

    data: str | None
    """What data it used, in words; None for a criterion that needs none."""

    input: str
    """What it fed the network beside data, in words; empty for a criterion that feeds it nothing."""

    evened: tuple[str, ...]
    """Weights that are all zero and count as even, since a recipe starts them so."""

    exact: Exact | None
    """Scores in float64, at places of the flat buffer, of the network last scored; None where there is no better."""

    def scores(self, alive: Tensor | None) -> Tensor:
        """Score of every weight ``[N]`` (float32, CPU, high means keep) of the network under a mask ``[N]`` (bool).

        Scores of masked weights mean nothing. The result may lie in a buffer that the next call writes over.
        """


@dataclass(frozen=True)
class Criterion:
    """One entry of ``CRITERIA``.

    ``begin`` starts work on a subject; ``rounds`` is how often masks are refined by default; ``pace`` how far the log
    of the density may fall per round where only layer densities are read (None: one round will do); ``objective``
    makes what the criterion tries to keep a function of masks; ``needs`` is what it looks at beside the weights.
    """

    name: str
    begin: Callable[[Subject], Scorer]
    rounds: int = 1
    pace: float | None = None
    objective: Callable[[Subject], Objective] | None = None
    needs: Literal["data", "example_inputs"] | None = None


@dataclass
class Fixed:
    """A scorer whose scores do not depend on the mask."""

    values: Tensor
    data: str | None = None
    input: str = ""
    evened: tuple[str, ...] = ()
    exact: Exact | None = None

    def scores(self, alive: Tensor | None) -> Tensor:
        """The values, zero where the mask is."""
        return self.values if alive is None else self.values * alive


def lost(views: Mapping[str, Tensor], masks: Mapping[str, Tensor] | None) -> float:
    """Sum of the scores that masks take away."""
    with torch.no_grad():
        pieces = ((views[name] * (1.0 - mask.cpu().float())) for name, mask in (masks or {}).items() if name in views)
        return float(sum(float(piece.sum(dtype=torch.float64)) for piece in pieces))
