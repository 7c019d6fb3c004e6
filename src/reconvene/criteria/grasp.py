"""GraSP (2002.07376): keep the weights without which the gradient flow ``g . g`` would shrink most.

Without weight ``q`` the gradient is ``g - w_q H_q + ...``, so the flow is ``g . g - 2 w_q (H g)_q`` to first order in
``w_q``. Losing a weight with large positive ``w (H g)`` therefore costs flow: the score to keep is ``+w * (H g)``. (The
paper writes ``-w * (H g)`` and removes the *highest*; this is the same order.) Logits are divided by 200, as in the
paper, so that the softmax of an untrained network is nearly uniform; that holds for the default loss only.
"""

from __future__ import annotations

import torch
from torch import Tensor

from reconvene.criteria.base import Criterion, Objective, Subject, lost
from reconvene.criteria.gradients import Gradients
from reconvene.criteria.topk import Exact
from reconvene.errors import CriterionError

TEMPERATURE = 200.0


class Grasp:
    """GraSP at work on one subject; ``flow`` is ``g . g`` of the network last scored."""

    def __init__(self, subject: Subject) -> None:
        self._gradients = Gradients(subject, criterion="grasp", temperature=TEMPERATURE)
        self._layout = subject.layout
        self.data: str | None = None
        self.input = ""
        self.evened: tuple[str, ...] = ()
        self.exact: Exact | None = None
        self.flow = 0.0

    def scores(self, alive: Tensor | None) -> Tensor:
        """``w * (H g)`` of the masked network over its gradient flow ``g . g``; ``g`` is that of live weights only."""
        leaves = self._gradients.weights(alive)
        gradient = self._gradients.first(leaves)
        if alive is not None:
            masks = self._layout.views(alive)
            gradient = {name: value * masks[name].to(value.device) for name, value in gradient.items()}
        curvature = self._gradients.second(leaves, gradient)
        self.data = self._gradients.batches.describe()
        with torch.no_grad():
            self.flow = sum(float(value.double().square().sum()) for value in gradient.values())
            if self.flow == 0.0 and alive is None:
                raise CriterionError("criterion 'grasp': the gradient is zero for every weight on this data and loss.")
            if self.flow == 0.0:  # the mask cut the last path: the rest is equally worthless
                return torch.zeros(self._layout.total)
            products = {name: leaf.double() * curvature[name] / self.flow for name, leaf in leaves.items()}
            return self._layout.flatten(products).cpu()


def _objective(subject: Subject) -> Objective:
    """Share of the gradient flow that is left under masks, to first order: ``1 - 2 * sum of lost scores``."""
    views = subject.layout.views(Grasp(subject).scores(None))
    return lambda masks: 1.0 - 2.0 * lost(views, masks)


GRASP = Criterion("grasp", Grasp, objective=_objective, needs="data")
