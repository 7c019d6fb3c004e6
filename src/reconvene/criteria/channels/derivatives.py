"""Criteria that read derivatives of the loss in the trained network: what the loss becomes without a channel.

The network runs in eval mode, with the statistics its norms have: what is estimated is the loss of the network that is
used, and examples do not depend on each other.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from reconvene.criteria.batches import Batches, argument_names, samples_in
from reconvene.criteria.channels.base import ChannelCriterion, ChannelScores, ChannelSubject
from reconvene.criteria.channels.slots import EVERYTHING, Role, Roles, channel_sums
from reconvene.criteria.gradients import explained, loss_of
from reconvene.criteria.preserve_state import call_with, untouched
from reconvene.errors import CriterionError
from reconvene.structure import Group, Slot, map_tensors
from reconvene.structure.inputs import copied_arguments


def taylor(subject: ChannelSubject) -> ChannelScores:
    """``(sum of g w)^2`` over the columns that read the channel, averaged over batches (1906.10771).

    The sum is the derivative of the batch's loss by a gate that multiplies the channel wherever it is read; behind a
    ReLU that is the gate after its norm, whose derivative is ``sum of g w`` over the scale and the shift. So norms
    count, and so does everything between them and the reader. A channel that no weight reads (queries and keys of an
    attention) has its gate where it is computed: the mean over the layers that compute it.
    """
    roles = Roles.of(subject.model, subject.structure)
    gates = Gates(roles, subject.structure.prunable)
    squares = [np.zeros(group.width) for group in subject.structure.prunable]
    batches = _batches(subject, "taylor")
    count = 0
    for products in _products(subject, roles, gates.parameters, batches, "taylor"):
        sums = channel_sums(subject.structure, gates.slots, products)
        for square, derivative, share in zip(squares, sums, gates.shares, strict=True):
            square += (derivative * share) ** 2
        count += 1
    return ChannelScores([square / count for square in squares], data=batches.describe())


def obd(subject: ChannelSubject) -> ChannelScores:
    """``1/2 sum of w^2 E[g^2]`` over everything coupled to the channel, ``g`` of single examples.

    The diagonal of the Fisher matrix stands for that of the Hessian (Optimal Brain Damage, 1990; 1801.05787). Each
    example has its own backward pass: the gradient of a batch's mean would be wrong by a factor, and examples would
    cancel each other.
    """
    roles = Roles.of(subject.model, subject.structure)
    names = {slot.parameter for group in subject.structure.prunable for slot in roles.slots(group, EVERYTHING)}
    totals = {name: torch.zeros_like(roles.parameters[name], dtype=torch.float64) for name in names}
    batches = _batches(subject, "obd")
    count = 0
    for products in _products(subject, roles, names, single_examples(batches), "obd"):
        for name, product in products.items():
            totals[name] += product.double() ** 2
        count += 1
    sums = channel_sums(subject.structure, lambda group: roles.slots(group, EVERYTHING), totals)
    return ChannelScores([0.5 * total / count for total in sums], data=batches.describe())


class Gates:
    """The slots over which ``g w`` adds up to the derivative by a gate on the channel."""

    def __init__(self, roles: Roles, groups: Iterable[Group]) -> None:
        self._slots: dict[str, list[Slot]] = {}
        self.shares: list[float] = []
        computing: frozenset[Role] = frozenset({"row", "shift"})
        for group in groups:
            reading = roles.slots(group, frozenset({"column"}))
            chosen = reading or roles.slots(group, computing) or roles.slots(group, EVERYTHING)
            layers = 1 if reading else sum(roles.role(slot) == "row" for slot in chosen)
            self._slots[group.name] = chosen
            self.shares.append(1.0 / max(layers, 1))
        self.parameters = {slot.parameter for slots in self._slots.values() for slot in slots}

    def slots(self, group: Group) -> list[Slot]:
        """The slots of one group."""
        return self._slots[group.name]


def _batches(subject: ChannelSubject, criterion: str) -> Batches:
    names = argument_names(subject.model, subject.example_inputs)
    return Batches(subject.data, user=f"criterion {criterion!r}", device=subject.device, seed=subject.seed, names=names)


def single_examples(batches: Batches) -> Iterator[tuple[Any, Any]]:
    """Every example as a batch of one."""
    for inputs, target in batches:
        for number in range(samples_in(inputs, target)):
            yield map_tensors(lambda t, n=number: t[n : n + 1] if t.ndim else t, (inputs, target))  # type: ignore[misc]


def _products(
    subject: ChannelSubject,
    roles: Roles,
    names: Iterable[str],
    batches: Iterable[tuple[Any, Any]],
    criterion: str,
) -> Iterator[dict[str, Tensor]]:
    """``w dL/dw`` of these parameters for every batch; the model stays as it is."""
    for gradients in gradients_of(subject, roles, names, batches, criterion):
        yield {name: roles.parameters[name] * gradient for name, gradient in gradients.items()}


def gradients_of(
    subject: ChannelSubject,
    roles: Roles,
    names: Iterable[str],
    batches: Iterable[tuple[Any, Any]],
    criterion: str,
) -> Iterator[dict[str, Tensor]]:
    """``dL/dw`` of these parameters for every batch; the model stays as it is. Raises CriterionError."""
    needed = sorted(names)
    with untouched(subject.model, seed=subject.seed):
        leaves = {name: roles.parameters[name].clone().requires_grad_() for name in needed}
        state = [*subject.model.named_parameters(), *subject.model.named_buffers()]
        stand_ins = {name: tensor.detach().clone() for name, tensor in state if name not in leaves} | leaves
        for number, (inputs, target) in enumerate(batches):
            with explained(f"criterion {criterion!r}", number):
                args, kwargs = copied_arguments(inputs)
                output = call_with(subject.model, stand_ins, args, kwargs)
                loss = loss_of(subject.loss, output, target, user=f"criterion {criterion!r}")
                results = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
            gradients = {
                name: torch.zeros_like(leaf) if gradient is None else gradient
                for (name, leaf), gradient in zip(leaves.items(), results, strict=True)
            }
            for name, gradient in gradients.items():
                if not torch.isfinite(gradient).all():
                    raise CriterionError(
                        f"criterion {criterion!r}: the gradient of {name!r} is not finite on this data and loss."
                    )
            yield gradients


DERIVATIVE_CRITERIA = (
    ChannelCriterion("taylor", taylor, needs="loss", adds_up=True),
    ChannelCriterion("obd", obd, needs="loss", adds_up=True),
)
