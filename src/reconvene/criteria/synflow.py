"""SynFlow (2006.05467): ``|w| * dR/d|w|`` for ``R`` the sum of outputs under absolute weights and an all-ones input.

Scores flow through the network like a current: what enters a hidden unit leaves it. Pruned in one shot, wide layers
whose weights each carry little would vanish whole; in 100 rounds they are not. It needs no data.

Rounds run in float32, and where it cannot tell which of two weights leaves, float64 decides: a wrong one among millions
changes a hundredth of the mask 50 rounds later.

Masks need the 100 rounds. Layer *densities* have settled long before: see ``score``.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from reconvene.criteria.base import Criterion, Objective, Subject
from reconvene.criteria.flow import Flow
from reconvene.criteria.topk import Exact

PACE = 0.12  # layer densities are then within 0.01 of those of 100 rounds (VGG-16, ResNet-20; 1/16 and 1/100)


class SynFlow:
    """SynFlow at work on one subject."""

    data: str | None = None

    def __init__(self, subject: Subject) -> None:
        self.flow = Flow(subject.model, subject.example_inputs, small=subject.small)
        self.exact: Exact | None = self.flow.exact
        self.input, self.evened = self.flow.input, self.flow.evened

    def scores(self, alive: Tensor | None) -> Tensor:
        """Share of ``R`` that flows through each weight of the masked network."""
        return self.flow.scores(alive)


def _objective(subject: Subject) -> Objective:
    """``R`` under masks over ``R`` of the dense network."""
    flow = Flow(subject.model, subject.example_inputs, small=subject.small)
    dense = flow.log2_total()

    def share(masks: Mapping[str, Tensor] | None) -> float:
        scored_masks = {name: mask for name, mask in (masks or {}).items() if name in flow.layout.names}
        return float(2.0 ** (flow.log2_total(scored_masks) - dense))

    return share


SYNFLOW = Criterion("synflow", SynFlow, rounds=100, pace=PACE, objective=_objective, needs="example_inputs")
