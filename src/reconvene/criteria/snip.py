"""SNIP (1810.02340): ``|w * dL/dw|``, the first-order change of the loss when the weight leaves.

Gradients are summed over batches before the absolute value. With more rounds the masked network is scored again each
round (iterative SNIP, 2006.00896; FORCE, 2006.09081), and a weight that left stays out.
"""

from __future__ import annotations

import torch
from torch import Tensor

from reconvene.criteria.base import Criterion, Subject
from reconvene.criteria.gradients import Gradients
from reconvene.criteria.topk import Exact


class Snip:
    """SNIP at work on one subject."""

    def __init__(self, subject: Subject) -> None:
        self._gradients = Gradients(subject, criterion="snip")
        self._layout = subject.layout
        self.data: str | None = None
        self.input = ""
        self.evened: tuple[str, ...] = ()
        self.exact: Exact | None = None

    def scores(self, alive: Tensor | None) -> Tensor:
        """``|w * g|`` of the masked network; zero for masked weights."""
        leaves = self._gradients.weights(alive)
        gradient = self._gradients.first(leaves)
        self.data = self._gradients.batches.describe()
        with torch.no_grad():
            return self._layout.flatten({name: leaf * gradient[name] for name, leaf in leaves.items()}).abs_().cpu()


SNIP = Criterion("snip", Snip, needs="data")
