"""Scores of every weight, and how dense each layer is left on the way down to a target density."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from reconvene.criteria.base import Criterion, Loss, Scorer, Subject
from reconvene.criteria.masks import largest_mask, rounds_of
from reconvene.criteria.registry import criterion as lookup
from reconvene.criteria.topk import kept, schedule
from reconvene.criteria.weights import Layout
from reconvene.structure.nesting import on_model
from reconvene.utils.progress import track

LEVELS = 24  # of a criterion whose scores do not change on the way down
FEWEST_ROUNDS = 12
MOST_LEVELS = 40  # of one that is refined in more rounds than anybody reads

Levels = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Saliency:
    """What a criterion says about a network.

    ``scores`` holds the score of every weight of the dense network (CPU float32, high means keep), by parameter name.
    ``levels`` are global densities, ``levels[0] == 1`` and strictly falling; ``densities[name][l]`` is the share of the
    elements of a weight that the criterion's mask keeps at level ``l``. Both are empty where only scores were asked
    for. ``data`` says what data the criterion used, ``input`` what it fed the network beside that; ``evened`` names
    weights that are all zero and counted as even.
    """

    criterion: str
    scores: dict[str, Tensor]
    levels: Levels = field(default_factory=lambda: np.empty(0))
    densities: dict[str, Levels] = field(default_factory=dict)
    data: str | None = None
    rounds: int = 1
    input: str = ""
    evened: tuple[str, ...] = ()

    @property
    def note(self) -> str | None:
        """What a plan should say of where the scores come from: the data, and weights taken as even."""
        evened = [f"{' and '.join(self.evened)}, all zero, as if even"] if self.evened else []
        return "; ".join([*([self.data] if self.data else []), *evened]) or None

    def __str__(self) -> str:
        """One line per weight: its name, size, and density at the last level where levels were asked for."""
        followed = self.levels.size > 0
        rows = [f"{'weight':<40} {'elements':>10}" + (f" {'density':>8}" if followed else "")]
        for name, view in self.scores.items():
            density = f" {self.densities[name][-1]:>8.4f}" if followed else ""
            rows.append(f"{name:<40} {view.numel():>10}{density}")
        path = f", density {self.levels[-1]:.4g}, {self.rounds} rounds" if followed else ""
        used = f", {self.data}" if self.data else ""
        return f"{self.criterion}{path}{used}\n" + "\n".join(rows)


@on_model
def score(
    model: nn.Module,
    example_inputs: Any,
    criterion: str = "synflow",
    *,
    data: Iterable[Any] | None = None,
    loss: Loss | None = None,
    seed: int = 0,
    rounds: int | None = None,
    density: float = 1 / 16,
    layerwise: str | None = None,
    levels: bool = True,
) -> Saliency:
    """Score every weight, and follow the density of each layer from 1 down to ``density``.

    With one round (the default of all but ``synflow``) the dense network's scores are cut at geometric levels; with
    more, the levels are the densities of the rounds. For ``synflow`` the default is a round per 0.12 by which the log
    of the density falls, 24 for 1/16. Layer densities, all that is read here, then agree with those of 100 rounds to
    about 0.01, although the masks themselves do not.

    A layer's density is that of the criterion's own mask, so only the criterion's own means are used: ``magnitude`` and
    ``random`` do not run the network. Without ``levels`` the dense network is scored once and no layer is followed
    (``rounds``, ``density`` and ``layerwise`` then say nothing).

    ``synflow`` may use a smaller input than the given one, where that is safe (``Saliency.input`` tells). Other
    arguments and errors as in ``masks``.
    """
    entry = lookup(criterion)
    subject = Subject(model, example_inputs, Layout.of(model), data, loss, seed, small=True)
    rounds = _rounds(entry, density) if rounds is None else rounds
    scorer = entry.begin(subject)
    path = _follow(scorer, subject.layout, density, rounds, layerwise) if levels else _Path(_dense(scorer))
    views = {name: view.contiguous() for name, view in subject.layout.views(path.scores).items()}
    reached, densities = path.densities(subject.layout) if levels else (np.empty(0), {})
    rounds = rounds if levels else 1
    return Saliency(criterion, views, reached, densities, scorer.data, rounds, scorer.input, scorer.evened)


def _rounds(entry: Criterion, density: float) -> int:
    kept(density, 1)  # says what is wrong with a density that has no logarithm
    return 1 if entry.pace is None else max(FEWEST_ROUNDS, math.ceil(-math.log(density) / entry.pace))


@dataclass
class _Path:
    """Scores of the dense network, levels met on the way down, and how many elements of each weight were kept there."""

    scores: Tensor
    levels: list[float] = field(default_factory=lambda: [1.0])
    counts: list[list[int]] = field(default_factory=list)

    def densities(self, layout: Layout) -> tuple[Levels, dict[str, Levels]]:
        shares = np.array([layout.sizes, *self.counts], dtype=np.float64) / np.array(layout.sizes, dtype=np.float64)
        step = math.ceil(len(self.levels) / MOST_LEVELS)
        chosen = sorted({0, len(self.levels) - 1, *range(0, len(self.levels), step)})
        return np.array(self.levels)[chosen], {name: shares[chosen, index] for index, name in enumerate(layout.names)}


def _dense(scorer: Scorer) -> Tensor:
    """Scores of the dense network, in memory of their own."""
    return scorer.scores(None).clone()


def _follow(scorer: Scorer, layout: Layout, density: float, rounds: int, layerwise: str | None) -> _Path:
    """The criterion's masks at every level on the way down; none where there is no way to go."""
    path: _Path | None = None
    for target, scores, alive in _thinned(scorer, layout, density, rounds, layerwise):
        path = path or _Path(scores.clone())
        path.levels.append(target)
        path.counts.append(_counts(alive, layout))
    return path or _Path(_dense(scorer))


def _thinned(
    scorer: Scorer, layout: Layout, density: float, rounds: int, layerwise: str | None
) -> Iterator[tuple[float, Tensor, Tensor]]:
    """A level, the scores that decide it, and the mask it leaves."""
    if density == 1.0:
        return
    if rounds > 1:
        yield from track(rounds_of(scorer, layout, density, rounds, layerwise), "rounds", total=rounds)
        return
    scores = scorer.scores(None)
    for target in schedule(density, LEVELS):
        yield target, scores, largest_mask(scores, layout, target, layerwise, None, None)


def _counts(flat: Tensor, layout: Layout) -> list[int]:
    return [int(np.count_nonzero(piece.numpy())) for piece in torch.split(flat, layout.sizes)]
