"""The evaluators by name, and the one function that runs them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from reconvene.errors import CriterionError, UnknownNameError
from reconvene.evaluator.ablation import ablation_losses
from reconvene.evaluator.concentration import concentration_losses
from reconvene.evaluator.curves import Curve, Floats, Pinned, Sensitivity
from reconvene.evaluator.density import density_losses
from reconvene.evaluator.evidence import Evidence, gather
from reconvene.evaluator.fan_in import fan_in_losses
from reconvene.evaluator.reach import reach_losses

if TYPE_CHECKING:
    from reconvene.saliency import Saliency
    from reconvene.saliency.subject import Objective
    from reconvene.structure import Structure


@dataclass(frozen=True)
class Evaluator:
    """``losses(evidence)``: ``loss[0..width]`` per prunable group, in ``unit``; ``loss[0]`` is not used.

    ``adds_up``: what the network loses is the sum of squares over groups; otherwise it is what the worst group loses.
    """

    unit: str
    losses: Callable[[Evidence], list[Floats]]
    adds_up: bool = False


EVALUATORS: dict[str, Evaluator] = {
    "fan_in": Evaluator("root of reciprocal channels", fan_in_losses, adds_up=True),
    "density": Evaluator("nats of global density", density_losses),
    "reach": Evaluator("nats of density over layers", reach_losses),
    "concentration": Evaluator("share of kept saliency", concentration_losses),
    "ablation": Evaluator("share of the objective", ablation_losses),
}


def evaluate(
    structure: Structure,
    saliency: Saliency,
    *,
    evaluator: str = "fan_in",
    objective: Objective | None = None,
    density: float | None = None,
) -> Sensitivity:
    """One curve per group of ``structure.prunable``: what the network loses when the group keeps ``k`` channels.

    ``density`` is the global density of weights, in (0, 1], at which single numbers are given (default: the lowest of
    ``saliency.levels``). ``objective`` (``reconvene.saliency.objective``) is needed by ``ablation`` only. Groups that
    nothing can prune are listed with their reason, never with a loss. Same input, same bytes.

    Raises ``UnknownNameError`` for an unknown evaluator, ``CriterionError`` when there is nothing to judge by.
    """
    if evaluator not in EVALUATORS:
        raise UnknownNameError("evaluator", evaluator, EVALUATORS)
    target = float(saliency.levels[-1]) if density is None else float(density)
    if not 0.0 < target <= 1.0:
        raise CriterionError(f"density is the share of weights that stay, in (0, 1]; got {density!r}")
    pinned = tuple(
        Pinned(group.name, group.width, group.pinned) for group in structure.groups if group.pinned is not None
    )
    chosen = EVALUATORS[evaluator]
    curves: tuple[Curve, ...] = ()
    if structure.prunable:
        evidence = gather(structure.prunable, saliency, target=target, objective=objective)
        curves = _curves(evidence, chosen.losses(evidence))
    return Sensitivity(evaluator, saliency.criterion, chosen.unit, target, curves, pinned, chosen.adds_up)


def _curves(evidence: Evidence, losses: list[Floats]) -> tuple[Curve, ...]:
    density = evidence.at_target(evidence.density)
    share = np.exp(evidence.at_target(evidence.log_share))
    curves = []
    for g, (group, loss) in enumerate(zip(evidence.groups, losses, strict=True)):
        final = loss.copy()
        final[0] = np.inf
        even = max(1, round(group.width * evidence.target**0.5))
        curves.append(
            Curve(
                group=group.name,
                width=group.width,
                loss=final,
                channel_score=evidence.scores[g],
                density=float(density[g]),
                implied=min(group.width, max(1, round(group.width * float(share[g])))),
                sensitivity=float(final[even]),
            )
        )
    return tuple(curves)
