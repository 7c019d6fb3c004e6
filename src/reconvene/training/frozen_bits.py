"""Fine-tuning of a network whose plan has bits: weights and what layers read are rounded, bits stay as they are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from reconvene.quantiser import quantise
from reconvene.quantiser.activations import Range, RoundedInputs
from reconvene.structure.inputs import copied_arguments
from reconvene.surgery.bits import BitPlan, TrainedRanges
from reconvene.surgery.history import note_plans, plans_of
from reconvene.training.checkpoint import sha256
from reconvene.training.quantising import Rounded
from reconvene.utils.arrays import Ints
from reconvene.utils.progress import note

SEARCHED = 10
"""Training steps between two searches of the scales of weights, which move little in one."""


@dataclass(frozen=True)
class FrozenBits:
    """Train with the roundings of a plan of bits, with straight-through gradients; see ``training.quantising``.

    Weights are rounded as ``quantise`` does, and what the layers read to its bits, 8 for most, within a moving average
    of the extremes that is followed for the first half of the steps.
    """

    bits: BitPlan
    standing: float = 0.5

    def rounded(self, network: nn.Module, images: Any) -> RoundedByBits:
        """See ``reconvene.training.quantising.Quantising``."""
        return RoundedByBits(network, self.bits, standing=self.standing)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {"bits": self.bits.to_dict(), "standing": self.standing}


class RoundedByBits(Rounded):
    """``network`` with the weights that its plan of bits stands for; see ``FrozenBits``.

    It computes on the parameters and buffers of ``network`` itself, which stays an ordinary module.
    """

    def __init__(self, network: nn.Module, bits: BitPlan, *, standing: float = 0.5) -> None:
        super().__init__()
        self.network, self._bits = network, bits.by_weight
        self._standing, self._progress = standing, 0.0
        self._inputs = RoundedInputs(network, weight_owners(network, bits), bits.inputs)
        self._scales = _WeightScales(network, self._bits)
        self.rounding = nn.ModuleList([self._inputs, self._scales])

    def at(self, progress: float) -> None:
        """See Rounded."""
        self._progress = progress

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What ``network`` outputs, rounded on the way."""
        rounded = self._scales.rounded(self.network, self._bits, keep=self.training)
        follow = self.training and self._progress < self._standing
        with self._inputs.rounding(follow=follow):
            return functional_call(self.network, rounded, args, kwargs)

    def renewing(self) -> nn.Module:
        """See Rounded: few bits make activations smaller, so statistics are those behind rounded weights."""
        return self

    def call(self, inputs: Any) -> Any:
        """``forward`` of example inputs in the forms that ``rc.plan`` takes."""
        args, kwargs = copied_arguments(inputs)
        return self(*args, **kwargs)

    def ranges(self) -> Mapping[str, Range]:
        """See Rounded: by the name of the layer that reads the tensor."""
        return self._inputs.scales()


class _WeightScales(nn.Module):
    """The scales of weights between two searches: in training these are ``SEARCHED`` steps apart."""

    steps: Tensor

    def __init__(self, network: nn.Module, bits: Mapping[str, tuple[int, Ints]]) -> None:
        super().__init__()
        parameters = dict(network.named_parameters())
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        for number, (name, (axis, _)) in enumerate(bits.items()):
            self.register_buffer(f"scale{number}", parameters[name].new_ones(parameters[name].shape[axis]))

    def rounded(self, network: nn.Module, bits: Mapping[str, tuple[int, Ints]], *, keep: bool) -> dict[str, Tensor]:
        """Rounded weights by name; without ``keep`` by scales that are searched for them now."""
        parameters, weights = dict(network.named_parameters()), {}
        anew = not keep or int(self.steps) % SEARCHED == 0
        for number, (name, (axis, widths)) in enumerate(bits.items()):
            kept = getattr(self, f"scale{number}")
            quantised = quantise(parameters[name], widths, axis=axis, scale=None if anew else kept)
            if keep and anew:
                kept.copy_(quantised.scale)
            weights[name] = straight_through(parameters[name], quantised.values)
        if keep:
            self.steps += 1
        return weights


def weight_owners(network: nn.Module, bits: BitPlan) -> list[str]:
    """Names of the layers that hold the weights of a plan of bits, in the order of the network."""
    owners = {name.rpartition(".")[0] for name in bits.layers}
    return [name for name, _ in network.named_modules() if name in owners]


def keep_ranges(network: nn.Module, ranges: Mapping[str, Range]) -> None:
    """Keep in the plan of a network the ranges of few bits that it was trained with, so that its file computes in them.

    The network holds the weights that the training ended with.
    """
    *earlier, plan = plans_of(network)
    if plan.bits is None or not plan.bits.inputs:
        return
    steps = {name: ranges[name] for name in plan.bits.inputs}
    bits = replace(plan.bits, trained=TrainedRanges(steps, sha256(network.state_dict())))
    note_plans(network, (*earlier, replace(plan, bits=bits)))


def trained_ranges(network: nn.Module, bits: BitPlan) -> Mapping[str, Range]:
    """The ranges of few bits that exactly these weights were trained with; none where there are no such ranges."""
    if bits.trained is None:
        return {}
    if sha256(network.state_dict()) != bits.trained.weights:
        note("weights have changed since the ranges of activations of few bits were trained: they are measured anew")
        return {}
    return bits.trained.steps


def straight_through(weight: Tensor, values: Tensor) -> Tensor:
    """``values``, with the gradient of ``weight`` itself (straight-through, 1308.3432)."""
    return weight + (values - weight).detach()
