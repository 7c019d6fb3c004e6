"""Gradients of a loss over data, for a masked stand-in of the user's model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from reconvene.criteria.base import Loss, Subject
from reconvene.criteria.batches import Batches, argument_names
from reconvene.criteria.preserve_state import call_with, untouched
from reconvene.errors import MODEL_REFUSALS, CriterionError, ReconveneError
from reconvene.structure.inputs import copied_arguments
from reconvene.utils.module_tree import device_of


class Gradients:
    """Sums over batches of gradients (and Hessian products) with respect to every weight, in eval mode.

    Before each sum one pass over the data sets the norm layers' running statistics for the masked network: at
    initialization they hold nothing yet. Gradients then add up over batches exactly, however the data is cut.
    ``temperature`` divides the output where the loss is the default cross entropy (a loss of the caller's own sees the
    output as it is).
    """

    def __init__(self, subject: Subject, *, criterion: str, temperature: float = 1.0) -> None:
        self.subject, self.criterion = subject, criterion
        self._temperature = temperature
        device = device_of(subject.model)
        names = argument_names(subject.model, subject.example_inputs)
        self.batches = Batches(
            subject.data, user=f"criterion {criterion!r}", device=device, seed=subject.seed, names=names
        )

    def weights(self, alive: Tensor | None) -> dict[str, Tensor]:
        """Leaves for the masked weights, by name."""
        parameters = dict(self.subject.model.named_parameters())
        masks = {} if alive is None else self.subject.layout.views(alive)
        leaves = {}
        for name in self.subject.layout.names:
            weight = parameters[name].detach()
            leaves[name] = (weight * masks[name].to(weight.device) if masks else weight.clone()).requires_grad_()
        return leaves

    def first(self, leaves: dict[str, Tensor]) -> dict[str, Tensor]:
        """``sum over batches of dL/dw``."""
        with untouched(self.subject.model, seed=self.subject.seed):
            unscored = self._unscored_state(leaves)
            return self._sum(
                leaves,
                (
                    self._gradient(leaves, unscored, batch, batch_index)
                    for batch_index, batch in enumerate(self.batches)
                ),
            )

    def second(self, leaves: dict[str, Tensor], gradient: dict[str, Tensor]) -> dict[str, Tensor]:
        """``H g``: the Hessian of the same sum of losses times a fixed vector, one batch at a time."""
        with untouched(self.subject.model, seed=self.subject.seed):
            unscored = self._unscored_state(leaves)
            return self._sum(
                leaves,
                (
                    self._hessian(leaves, unscored, gradient, batch, batch_index)
                    for batch_index, batch in enumerate(self.batches)
                ),
            )

    def _sum(
        self, leaves: dict[str, Tensor], batch_gradients: Iterator[tuple[Tensor | None, ...]]
    ) -> dict[str, Tensor]:
        sums = {name: torch.zeros_like(leaf, requires_grad=False) for name, leaf in leaves.items()}
        for gradients in batch_gradients:
            for total, gradient in zip(sums.values(), gradients, strict=True):
                if gradient is not None:
                    total.add_(gradient)
        for name, total in sums.items():
            if not torch.isfinite(total).all():
                raise CriterionError(
                    f"criterion {self.criterion!r}: the gradient of {name!r} is not finite on this data and loss."
                )
        return sums

    def _gradient(
        self, leaves: dict[str, Tensor], unscored: dict[str, Tensor], batch: tuple[Any, Any], batch_index: int
    ) -> tuple[Tensor | None, ...]:
        with explained(f"criterion {self.criterion!r}", batch_index):
            return torch.autograd.grad(self._loss(leaves, unscored, batch), list(leaves.values()), allow_unused=True)

    def _hessian(
        self,
        leaves: dict[str, Tensor],
        unscored: dict[str, Tensor],
        vector: dict[str, Tensor],
        batch: tuple[Any, Any],
        batch_index: int,
    ) -> tuple[Tensor | None, ...]:
        with explained(f"criterion {self.criterion!r}", batch_index):
            loss, inputs = self._loss(leaves, unscored, batch), list(leaves.values())
            gradients = torch.autograd.grad(loss, inputs, create_graph=True, allow_unused=True)
            terms = [
                (gradient * vector[name]).sum()
                for name, gradient in zip(leaves, gradients, strict=True)
                if gradient is not None and gradient.requires_grad
            ]
            if not terms:  # the loss is linear in every weight
                return (None,) * len(inputs)
            return torch.autograd.grad(torch.stack(terms).sum(), inputs, allow_unused=True)

    def _loss(self, leaves: dict[str, Tensor], unscored: dict[str, Tensor], batch: tuple[Any, Any]) -> Tensor:
        output = self._forward({**unscored, **leaves}, batch[0])
        return loss_of(
            self.subject.loss, output, batch[1], user=f"criterion {self.criterion!r}", temperature=self._temperature
        )

    def _forward(self, tensors: dict[str, Tensor], inputs: Any) -> Any:
        args, kwargs = copied_arguments(inputs)
        return call_with(self.subject.model, tensors, args, kwargs)

    def _unscored_state(self, leaves: dict[str, Tensor]) -> dict[str, Tensor]:
        """Copies of all unscored parameters and buffers, with norm statistics of the masked network on this data."""
        model = self.subject.model
        state = [*model.named_parameters(), *model.named_buffers()]
        unscored = {name: value.detach().clone() for name, value in state if name not in leaves}
        norms = {n: m for n, m in model.named_modules() if isinstance(m, _BatchNorm) and _tracks(m)}
        if not norms:
            return unscored
        for name in norms:
            unscored[f"{name}.running_mean".lstrip(".")].zero_()
            unscored[f"{name}.running_var".lstrip(".")].fill_(1.0)
            unscored[f"{name}.num_batches_tracked".lstrip(".")].zero_()
        with torch.no_grad(), _averaging(list(norms.values())):
            for batch_index, (inputs, _) in enumerate(self.batches):
                with explained(f"criterion {self.criterion!r}", batch_index):
                    self._forward({**unscored, **leaves}, inputs)
        return unscored


def loss_of(loss: Loss | None, output: Any, target: Any, *, user: str, temperature: float = 1.0) -> Tensor:
    """The caller's loss of an output, else cross entropy; ``temperature`` divides the output of the latter alone.

    ``user`` is the subject of the error for an output that cross entropy cannot take, as in "criterion 'taylor'".
    """
    if loss is not None:
        return loss(output, target)
    if not isinstance(output, Tensor):
        raise CriterionError(
            f"{user}: the model returns a {type(output).__name__}, and the default loss "
            "(cross entropy) needs a tensor of logits. Pass loss=, a function of (output, target)."
        )
    if target is None:
        raise CriterionError(
            f"{user}: the data has no targets, and the default loss (cross entropy) needs labels. Pass batches of "
            "(inputs, labels), or loss=, a function of (output, None)."
        )
    return F.cross_entropy(output / temperature, target)


@contextmanager
def explained(user: str, batch_index: int, error: type[ReconveneError] = CriterionError) -> Iterator[None]:
    """Within: what a model or a loss refuses becomes an error that names the batch."""
    try:
        yield
    except MODEL_REFUSALS as refusal:
        raise error(f"{user}: batch {batch_index} of the data failed: {refusal}") from refusal


def _tracks(norm: _BatchNorm) -> bool:
    return norm.running_mean is not None and norm.num_batches_tracked is not None


@contextmanager
def _averaging(norms: list[_BatchNorm]) -> Iterator[None]:
    """Within: the norm layers see batch statistics and keep their plain average over batches."""
    momenta = [norm.momentum for norm in norms]
    try:
        for norm in norms:
            norm.momentum, norm.training = None, True
        yield
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum, norm.training = momentum, False
