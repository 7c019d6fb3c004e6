"""Scores of every weight, and how dense each layer is left on the way down to a target density."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from reconvene.saliency.flow import Flow
from reconvene.saliency.masks import choose, rounds_of
from reconvene.saliency.registry import criterion as lookup
from reconvene.saliency.select import kept, schedule
from reconvene.saliency.subject import Loss, Scorer, Subject
from reconvene.saliency.synflow import SynFlow
from reconvene.saliency.weights import Layout

LEVELS = 24  # of a criterion whose scores do not change on the way down
FEWEST_ROUNDS = 12
MOST_LEVELS = 40  # of one that is refined in more rounds than anybody reads


@dataclass(frozen=True, eq=False)
class Saliency:
    """What a criterion says about a network.

    ``scores`` holds the score of every weight of the dense network (CPU float32, high means keep), by parameter name.
    ``levels`` are global densities, ``levels[0] == 1`` and strictly falling; ``densities[name][l]`` is the *effective*
    density of a weight at level ``l``: the share of its elements that are kept and lie on a live path from input to
    output, of those that do in the dense network; where the last mask cuts every path, the share of its elements kept.
    ``data`` says what data the criterion used, ``input`` what the flow passes were fed.
    """

    criterion: str
    scores: dict[str, Tensor]
    levels: NDArray[np.float64]
    densities: dict[str, NDArray[np.float64]]
    data: str | None
    rounds: int
    input: str = ""

    @property
    def told(self) -> str | None:
        """What a plan should tell of where the scores come from: the data, and weights taken as even."""
        return "; ".join([*([self.data] if self.data else []), *self.input.split("; ")[1:]]) or None

    def __str__(self) -> str:
        """One line per weight: its name, size, and effective density at the last level."""
        rows = [f"{'weight':<40} {'elements':>10} {'density':>8}"]
        rows += [
            f"{name:<40} {view.numel():>10} {self.densities[name][-1]:>8.4f}" for name, view in self.scores.items()
        ]
        used = f", {self.data}" if self.data else ""
        return f"{self.criterion}, density {self.levels[-1]:.4g}, {self.rounds} rounds{used}\n" + "\n".join(rows)


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
) -> Saliency:
    """Score every weight, and follow the effective density of each layer from 1 down to ``density``.

    With one round (the default of all but ``synflow``) the dense network's scores are cut at geometric levels; with
    more, the levels are the densities of the rounds. For ``synflow`` the default is a round per 0.12 by which the log
    of the density falls, 24 for 1/16. Layer densities, all that is read here, then agree with those of 100 rounds to
    about 0.01, although the masks themselves do not.

    Effective densities come from one synaptic-flow pass over the masked network per level, whatever the criterion. It
    may use a smaller input than the given one, where that is safe (``Saliency.input`` tells). Other arguments and
    errors as in ``masks``.
    """
    entry = lookup(criterion)
    subject = Subject(model, example_inputs, Layout.of(model), data, loss, seed, small=True)
    if rounds is None:
        kept(density, 1)  # says what is wrong with a density that has no logarithm
        rounds = 1 if entry.pace is None else max(FEWEST_ROUNDS, math.ceil(-math.log(density) / entry.pace))
    scorer = entry.begin(subject)
    if isinstance(scorer, SynFlow) and rounds > 1:
        path = _flow_path(scorer.flow, density, rounds, layerwise)
    else:
        path = _masked_path(scorer, subject, density, rounds, layerwise)
    views = {name: view.contiguous() for name, view in subject.layout.views(path.scores).items()}
    return Saliency(criterion, views, *path.densities(subject.layout), scorer.data, rounds, path.input)


@dataclass
class _Path:
    """Levels met on the way down, and how many live elements each weight had there."""

    scores: Tensor
    input: str
    levels: list[float]
    live: list[list[int]]
    kept: list[list[int]]

    def densities(self, layout: Layout) -> tuple[NDArray[np.float64], dict[str, NDArray[np.float64]]]:
        live, left = np.array(self.live, dtype=np.float64), np.array(self.kept, dtype=np.float64)
        # A mask that cuts every path leaves nothing alive, the same nothing in all layers. Criteria that rank layers of
        # different scale end so (magnitude takes a whole classifier drawn at 0.01); what their masks say of the other
        # layers is still true, so then all densities are those of the masks themselves.
        if not live[-1].any():
            live = left * (live[0] / left[0])
        reached = live[0] > 0  # what no signal reaches in the dense network (an auxiliary head) has a mask, but no path
        shares = np.where(reached, live / np.where(reached, live[0], 1.0), left / left[0])
        chosen = sorted(
            {0, len(self.levels) - 1, *range(0, len(self.levels), math.ceil(len(self.levels) / MOST_LEVELS))}
        )
        return np.array(self.levels)[chosen], {name: shares[chosen, at] for at, name in enumerate(layout.names)}


def _flow_path(flow: Flow, density: float, rounds: int, layerwise: str | None) -> _Path:
    """SynFlow's own rounds: the scores of each round say what the mask of the round before left alive."""
    path = _Path(torch.empty(0), flow.input, [1.0], [], [flow.layout.sizes])
    alive: Tensor | None = None
    scores = flow.scores(None)
    path.scores = scores.clone()
    for target in _levels(density, rounds):
        path.live.append(_counts(scores, flow.layout))
        alive = choose(scores, flow.layout, target, layerwise, alive, flow.exact)
        path.levels.append(target)
        path.kept.append(_counts(alive, flow.layout))
        scores = flow.scores(alive)
    path.live.append(_counts(scores, flow.layout))
    return path


def _masked_path(scorer: Scorer, subject: Subject, density: float, rounds: int, layerwise: str | None) -> _Path:
    """Any other criterion: its masks at every level, each looked through by one flow pass."""
    flow = Flow(subject.model, subject.example_inputs, small=True)
    path = _Path(torch.empty(0), flow.input, [1.0], [_counts(flow.scores(None), flow.layout)], [flow.layout.sizes])
    path.scores = scorer.scores(None).clone()
    if rounds > 1 and density < 1.0:
        steps = ((target, alive) for target, _, alive in rounds_of(scorer, subject.layout, density, rounds, layerwise))
    else:
        steps = (
            (target, choose(path.scores, subject.layout, target, layerwise, None, None))
            for target in _levels(density, LEVELS)
        )
    for target, alive in steps:
        path.levels.append(target)
        path.kept.append(_counts(alive, flow.layout))
        path.live.append(_counts(flow.scores(alive), flow.layout))
    return path


def _levels(density: float, rounds: int) -> list[float]:
    """Densities on the way down from one; none where there is no way to go."""
    return schedule(density, rounds) if density < 1.0 else []


def _counts(flat: Tensor, layout: Layout) -> list[int]:
    return [int(np.count_nonzero(piece.numpy())) for piece in torch.split(flat, layout.sizes)]
