"""The evaluators by name, what each of them reads, and the one function that runs them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from reconvene.criteria.channels.base import ChannelSaliency
from reconvene.criteria.registry import CHANNEL_CRITERIA
from reconvene.criteria.weights import is_bias
from reconvene.errors import CriterionError, UnknownNameError
from reconvene.evaluator.ablation import ablation_losses
from reconvene.evaluator.concentration import concentration_losses
from reconvene.evaluator.curves import Curve, Pinned, Sensitivity
from reconvene.evaluator.density import density_losses
from reconvene.evaluator.evidence import Evidence
from reconvene.evaluator.fan_in import fan_in_losses
from reconvene.evaluator.reach import reach_losses
from reconvene.evaluator.removed_loss import removed_losses
from reconvene.structure.layer_weights import summing_weights
from reconvene.utils.arrays import Floats

if TYPE_CHECKING:
    from reconvene.criteria import Saliency
    from reconvene.criteria.base import Objective
    from reconvene.structure import Structure


Reads = Literal["scores", "levels", "objective", "channels"]
"""Scores of weights, layer densities at levels on the way down, the criterion's objective as a function of masks; or
scores of channels, which criteria of either kind give."""

TARGET = 1 / 16


@dataclass(frozen=True)
class Evaluator:
    """``losses(evidence)``: ``loss[0..width]`` per prunable group, in ``unit``; ``loss[0]`` is not used.

    ``reads``: what it needs of a criterion; nothing where widths follow from the shapes of weights. ``adds_up``: what
    the network loses is the sum of squares over groups; otherwise it is what the worst group loses.
    """

    unit: str
    losses: Callable[[Evidence], list[Floats]]
    reads: frozenset[Reads] = frozenset()
    adds_up: bool = False


EVALUATORS: dict[str, Evaluator] = {
    "fan_in": Evaluator("root of reciprocal channels", fan_in_losses, adds_up=True),
    "density": Evaluator("nats of global density", density_losses, frozenset({"levels"})),
    "reach": Evaluator("nats of density over layers", reach_losses, frozenset({"levels"})),
    "concentration": Evaluator("share of kept saliency", concentration_losses, frozenset({"scores", "levels"})),
    "removed_loss": Evaluator("root of lost share", removed_losses, frozenset({"channels"}), adds_up=True),
    "ablation": Evaluator("share of the objective", ablation_losses, frozenset({"scores", "objective"})),
}


def evaluator_named(name: str) -> Evaluator:
    """Look an evaluator up; ``UnknownNameError`` lists the known ones."""
    if name not in EVALUATORS:
        raise UnknownNameError("evaluator", name, EVALUATORS)
    return EVALUATORS[name]


def usual_evaluator(criterion: str | None) -> str:
    """The evaluator that is used where none is asked for: ``removed_loss`` of channels' scores, else ``fan_in``."""
    return "removed_loss" if criterion in CHANNEL_CRITERIA else "fan_in"


def evaluate_groups(
    structure: Structure,
    saliency: Saliency | ChannelSaliency | None = None,
    *,
    evaluator: str = "fan_in",
    objective: Objective | None = None,
    density: float | None = None,
) -> Sensitivity:
    """One curve per group of ``structure.prunable``: what the network loses when the group keeps ``k`` channels.

    ``saliency`` is what ``Evaluator.reads`` asks for: none, scores, or scores with levels; scores of channels alone
    where nothing else is read. ``density`` is the global
    density of weights, in (0, 1], at which single numbers are given (default: the lowest of ``saliency.levels``, or
    1/16 without). ``objective`` (``reconvene.criteria.objective``) is needed by ``ablation`` only. Groups that nothing
    can prune are listed with their reason, never with a loss. Same input, same bytes.

    Raises ``UnknownNameError`` for an unknown evaluator, ``CriterionError`` when there is nothing to judge by.
    """
    chosen = evaluator_named(evaluator)
    followed = saliency is not None and len(saliency.levels) > 0
    target = float(density if density is not None else saliency.levels[-1] if saliency and followed else TARGET)
    if not 0.0 < target <= 1.0:
        raise CriterionError(f"density is the share of weights that stay, in (0, 1]; got {density!r}")
    pinned = tuple(
        Pinned(group.name, group.width, group.pinned) for group in structure.groups if group.pinned is not None
    )
    curves: tuple[Curve, ...] = ()
    if structure.prunable:
        by_channel = saliency if isinstance(saliency, ChannelSaliency) else None
        by_weight = None if isinstance(saliency, ChannelSaliency) else saliency
        if by_channel is not None and chosen.reads - {"channels"}:
            raise CriterionError(
                f"evaluator {evaluator!r} reads scores of weights, and criterion {by_channel.criterion!r} scores "
                "channels. Use evaluator='removed_loss', which reads those, or 'fan_in', which reads none"
            )
        evidence = Evidence(
            structure.prunable,
            weight_shapes(structure),
            target,
            by_weight,
            objective,
            by_channel,
            summing_weights(structure),
        )
        curves = _curves(evidence, chosen.losses(evidence))
    criterion = saliency.criterion if saliency is not None else ""
    return Sensitivity(evaluator, criterion, chosen.unit, target, curves, pinned, chosen.adds_up)


def weight_shapes(structure: Structure) -> dict[str, tuple[int, ...]]:
    """Shapes of the weights of convolution and linear layers, as ``saliency.weights`` names them."""
    return {name: shape for name, shape in structure.shapes.items() if len(shape) >= 2 and not is_bias(name)}


def _curves(evidence: Evidence, losses: list[Floats]) -> tuple[Curve, ...]:
    scores = evidence.channel_ranks
    shares = evidence.shares
    if shares is not None:
        density = shares.interpolated(shares.density, evidence.target)
        share = np.exp(shares.interpolated(shares.log_share, evidence.target))
    curves = []
    for g, (group, loss) in enumerate(zip(evidence.groups, losses, strict=True)):
        final = loss.copy()
        final[0] = np.inf
        even_width = max(1, round(group.width * evidence.target**0.5))
        curves.append(
            Curve(
                group=group.name,
                width=group.width,
                loss=final,
                channel_score=None if scores is None else scores[g],
                density=None if shares is None else float(density[g]),
                implied=None if shares is None else min(group.width, max(1, round(group.width * float(share[g])))),
                sensitivity=float(final[even_width]),
            )
        )
    return tuple(curves)
