"""Sparsity while training: penalties that pull the channels that matter least to zero, so that cutting them costs less.

In a loop of your own::

    sparsity = Sparsity(model, example_inputs, "group_lasso:5e-4")
    loss.backward()
    sparsity.add_gradients()
    optimizer.step()
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from reconvene.criteria.channels.slots import GROUP, Role, Roles
from reconvene.errors import TrainingError, UnknownNameError
from reconvene.structure import analyse

USUAL_STRENGTH = {"slimming": 1e-4, "group_lasso": 5e-4}
"""By penalty, the strength where none is given."""


def parse_sparsity(text: str) -> tuple[str, float]:
    """``"slimming:1e-4"`` to the penalty and its strength; the name alone has the usual one.

    Raises:
        TrainingError: no such penalty, or a strength that is no number above zero.
    """
    name, colon, number = text.partition(":")
    if name not in USUAL_STRENGTH:
        raise TrainingError(str(UnknownNameError("sparsity", name, USUAL_STRENGTH)))
    if not colon:
        return name, USUAL_STRENGTH[name]
    try:
        strength = float(number)
    except ValueError:
        strength = math.nan
    if not 0 < strength < math.inf:
        raise TrainingError(
            f"sparsity {text!r}: {number!r} is not a strength above 0. Try: {name}:{USUAL_STRENGTH[name]:g}"
        )
    return name, strength


@dataclass(frozen=True, eq=False)
class _Place:
    """Where the channels of a group lie in one parameter: ``index`` ``[width, m]``, positions along ``dim``."""

    parameter: nn.Parameter
    dim: int
    index: Tensor

    def spread(self, by_channel: Tensor) -> Tensor:
        """One number a channel, as a tensor that multiplies the parameter: zero where none of its channels lie."""
        along = torch.zeros(self.parameter.shape[self.dim], dtype=self.parameter.dtype, device=self.parameter.device)
        along[self.index] = by_channel.to(along)[:, None]
        return along.view([-1 if dim == self.dim else 1 for dim in range(self.parameter.ndim)])

    def energy(self) -> Tensor:
        """The sum of squares that each channel has here, ``[width]``."""
        squares = self.parameter.detach().double().square()
        others = [dim for dim in range(squares.ndim) if dim != self.dim]
        profile = squares.sum(dim=others) if others else squares
        return profile[self.index].sum(dim=1)


class Sparsity:
    """Adds the gradient of a penalty to those of the loss; call ``add_gradients`` between backward and optimizer step.

    - ``slimming`` (Liu et al. 2017, 1708.06519): ``s sign(g)`` for every scale ``g`` of a norm that a group of channels
      passes through; strength ``s`` 1e-5 to 1e-4. Prune by ``slimming`` afterwards.
    - ``group_lasso`` (Fang et al. 2023, 2301.12900): ``s 2^(4 (Imax - I) / (Imax - Imin)) w`` for every weight that
      is coupled to a channel, where ``I`` is the norm of all of them and ``Imax``, ``Imin`` are those of the group's
      largest and smallest channel. So the smallest channels are pulled sixteen times as hard. Where all are alike each
      factor is 1. Prune by ``group_l2`` afterwards.

    Args:
        model: what is trained; its parameters are read, and only their gradients change.
        example_inputs: as for ``groups``.
        penalty: ``slimming`` or ``group_lasso``, and its strength: ``"slimming:1e-4"``.

    Raises:
        TrainingError: there is no such penalty, or no group of this model passes through a norm (``slimming``).

    >>> import torch
    >>> from torch import nn
    >>> from reconvene.training.sparsity import Sparsity
    >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 2, 3))
    >>> sparsity = Sparsity(model, torch.randn(1, 3, 8, 8), "slimming:1e-4")
    >>> model(torch.randn(4, 3, 8, 8)).square().mean().backward()
    >>> sparsity.add_gradients()
    """

    def __init__(self, model: nn.Module, example_inputs: Any, penalty: str) -> None:
        self.name, self.strength = parse_sparsity(penalty)
        structure, parameters = analyse(model, example_inputs), dict(model.named_parameters())
        roles = Roles.of(model, structure)
        wanted: frozenset[Role] = frozenset({"scale"}) if self.name == "slimming" else GROUP
        self._groups = [
            [
                _Place(
                    parameters[slot.parameter],
                    slot.dim,
                    torch.from_numpy(slot.index).to(parameters[slot.parameter].device),
                )
                for slot in roles.slots(group, wanted)
            ]
            for group in structure.prunable
        ]
        if not any(self._groups):
            raise TrainingError(
                f"sparsity {penalty!r}: no channels of this {type(model).__name__} that can leave pass through a norm. "
                "Try: group_lasso"
            )

    @torch.no_grad()
    def add_gradients(self) -> None:
        """Add the penalty's gradient to every parameter that has one from the loss."""
        for places in self._groups:
            if not places:
                continue
            if self.name == "slimming":
                factors = torch.ones(len(places[0].index), dtype=torch.float64)
                direction: Callable[[Tensor], Tensor] = torch.sign
            else:
                factors, direction = (
                    _pull(torch.stack([place.energy() for place in places]).sum(dim=0).sqrt()),
                    torch.clone,
                )
            for place in places:
                if place.parameter.grad is not None:
                    weights = direction(place.parameter)
                    place.parameter.grad.add_(place.spread(factors) * weights, alpha=self.strength)


def _pull(norms: Tensor) -> Tensor:
    """How hard each channel is pulled, 1 to 16, ``[width]``: the smaller the harder."""
    largest, smallest = norms.max(), norms.min()
    if largest <= smallest:
        return torch.ones_like(norms)
    return torch.exp2(4 * (largest - norms) / (largest - smallest))
