"""The network of a search: every channel has its bits, or none, by parameters that are trained beside the weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import functional_call

from reconvene.allocation.bit_prices import Price, bit_prices, channel_prices
from reconvene.allocation.bit_problem import BitProblem, Decision, GroupChoices, InputChoices
from reconvene.allocation.bit_solver import PricedDecision
from reconvene.criteria.channels.derivatives import Gates
from reconvene.criteria.channels.slots import Roles
from reconvene.quantiser import largest, quantise
from reconvene.quantiser.activations import RoundedInputs
from reconvene.structure import Structure
from reconvene.structure.inputs import copied_arguments
from reconvene.utils.arrays import Floats
from reconvene.utils.module_tree import device_of

_Singles = NDArray[np.float32]
SURE = 4.0
"""Largest difference of logits that a search begins with: nothing is beyond change."""


class SearchNetwork(nn.Module):
    """``network`` under a decision on widths and bits that gradients can change.

    Every output channel of every weight has a logit for each choice of bits, every channel of a group one for staying.
    Forward, the best choices hold, so that what is trained is a network that could be exported; backward, choices have
    the gradient of ``softmax`` and ``sigmoid`` (straight-through). A channel that left is multiplied by zero in the
    columns of the weights that read it: that is what a cut computes, and its derivative is still known.

    Args:
        network: the network, whose parameters are trained in place.
        structure: its structure.
        problem: what is decided.
        start: the decision to begin with, and its price. What layers read keeps the bits that it decides.
    """

    def __init__(self, network: nn.Module, structure: Structure, problem: BitProblem, start: PricedDecision) -> None:
        super().__init__()
        self.network, self.problem = network, problem
        self.bits = nn.ParameterList(nn.Parameter(torch.from_numpy(logits)) for logits in _first_bits(problem, start))
        self.gates = nn.ParameterList(nn.Parameter(torch.from_numpy(logits)) for logits in _first_gates(problem, start))
        parameters = dict(network.named_parameters())
        for w, weight in enumerate(problem.weights):
            channels = parameters[weight.name].shape[weight.axis]
            self.register_buffer(f"scale{w}", torch.ones(len(weight.bits), channels))
        self._groups = [group.name for group in structure.prunable]
        gates = Gates(Roles.of(network, structure), structure.prunable)
        self._shares = gates.shares
        self._places = _places(structure, gates, parameters)
        self._inputs = start.decision.inputs
        self.activations = RoundedInputs(network, _owners(network, problem), problem.read_bits(start.decision))
        self.to(device_of(network))
        self.refresh()

    @property
    def decision(self) -> Decision:
        """What holds now: the best choice of every channel."""
        masks = [
            _kept(gate.detach().cpu().numpy(), group)
            for gate, group in zip(self.gates, self.problem.groups, strict=True)
        ]
        choice = [logits.detach().argmax(dim=1).cpu().numpy().astype(np.int64) for logits in self.bits]
        return Decision(masks, choice, self._inputs)

    @torch.no_grad()
    def refresh(self) -> None:
        """Search the scales of the weights anew; between two calls they stay, since weights move little in a step.

        Columns of channels that left do not count, as in the network that is cut.
        """
        parameters = self._without_left({}, self._stays())
        parameters = {**dict(self.network.named_parameters()), **parameters}
        for w, weight in enumerate(self.problem.weights):
            for i, bits in enumerate(weight.bits):
                scale = quantise(parameters[weight.name], bits, axis=weight.axis).scale
                getattr(self, f"scale{w}")[i] = scale

    def forward(self, inputs: Any, *, follow: bool = False) -> Any:
        """What the network outputs under the present decision; ``follow``: ranges of activations move."""
        args, kwargs = copied_arguments(inputs)
        with self.activations.rounding(follow=follow):
            return functional_call(self.network, self.weights(), args, kwargs)

    def weights(self) -> dict[str, Tensor]:
        """The weights under the present decision, by name."""
        parameters = dict(self.network.named_parameters())
        tensors = {
            weight.name: self._mixed(w, parameters[weight.name]) for w, weight in enumerate(self.problem.weights)
        }
        return self._without_left(tensors, self._stays())

    def penalty(self, bits: list[Tensor], gates: list[Tensor]) -> Tensor:
        """The sum of choices times what they cost: ``bits[w]`` ``[outputs, bits]``, ``gates[g]`` ``[width]``."""
        paid = [(cost * logits.softmax(dim=1)).sum() for cost, logits in zip(bits, self.bits, strict=True)]
        paid += [(cost * logits.sigmoid()).sum() for cost, logits in zip(gates, self.gates, strict=True)]
        return torch.stack(paid).sum()

    def slopes(self, decision: Decision, price: Price) -> tuple[list[Tensor], list[Tensor]]:
        """What choices cost at a decision, as ``penalty`` takes it: bits of channels that left cost nothing."""
        prices, channels = bit_prices(self.problem, decision, price), channel_prices(self.problem, decision, price)
        bits, gates = [], [np.full(len(mask), each) for mask, each in zip(decision.masks, channels, strict=True)]
        for w, weight in enumerate(self.problem.weights):
            present = self.problem.present(w, decision)
            bits.append(np.where(present[:, None], prices[w], 0.0))
            for g in np.unique(weight.group[weight.group >= 0]):
                of_group = weight.group == g
                np.add.at(gates[g], weight.channel[of_group], prices[w][decision.choice[w][of_group]])
        return [self._tensor(values) for values in bits], [self._tensor(values) for values in gates]

    def likelihoods(self, problem: BitProblem, groups: Sequence[str]) -> BitProblem:
        """The problem whose best decision is the most likely one: minus logarithms of what the search made of it.

        ``problem``: of this structure, or of one in which more is pinned; ``groups``: names of its groups.
        """
        bits = {w.name: logits for w, logits in zip(self.problem.weights, self.bits, strict=True)}
        gates = dict(zip(self._groups, self.gates, strict=True))
        weights = [replace(weight, loss=_unlikely(bits[weight.name])) for weight in problem.weights]
        choices = [
            replace(group, removal=_leaving(gates[name]), curve=None)
            for group, name in zip(problem.groups, groups, strict=True)
        ]
        return replace(problem, groups=choices, weights=weights)

    def settled(self, problem: BitProblem) -> BitProblem:
        """The problem with the bits of activations that the search was trained with."""
        inputs = [
            InputChoices(read.weights, (read.bits[i],), read.loss[i : i + 1])
            for read, i in zip(problem.inputs, self._inputs, strict=True)
        ]
        return replace(problem, inputs=inputs)

    def choices(self) -> dict[str, Tensor]:
        """The trained logits, by name."""
        return {
            **{f"bits/{w}": logits for w, logits in enumerate(self.bits)},
            **{f"gates/{g}": logits for g, logits in enumerate(self.gates)},
        }

    def _without_left(self, tensors: Mapping[str, Tensor], stays: Tensor) -> dict[str, Tensor]:
        """``tensors``, or the network's, with zeros where channels that left are read."""
        parameters, gated = dict(self.network.named_parameters()), dict(tensors)
        for (name, dim), places in self._places.items():
            tensor = gated.get(name, parameters[name])
            shape = [1] * tensor.ndim
            shape[dim] = -1
            gated[name] = tensor * stays[places].view(shape)
        return gated

    def _mixed(self, w: int, weight: Tensor) -> Tensor:
        """One weight, rounded to the present bits of its channels."""
        axis, choices = self.problem.weights[w].axis, self.problem.weights[w].bits
        rows = weight.movedim(axis, 0)
        shape = (-1, *[1] * (rows.ndim - 1))
        soft = self.bits[w].softmax(dim=1)
        hard = torch.zeros_like(soft).scatter_(1, self.bits[w].argmax(dim=1, keepdim=True), 1.0)
        share = hard + soft - soft.detach()
        mixed = rows - rows.detach()
        for i, bits in enumerate(choices):
            scale, limit = getattr(self, f"scale{w}")[i].view(shape), largest(bits)
            rounded = torch.round(rows.detach() / scale).clamp_(-limit, limit).mul_(scale)
            mixed = mixed + share[:, i].view(shape).to(rounded.dtype) * rounded
        return mixed.movedim(0, axis)

    def _tensor(self, values: Floats) -> Tensor:
        return torch.from_numpy(values.astype(np.float32)).to(self.bits[0].device)

    def _stays(self) -> Tensor:
        """1 or 0 for every channel of every group, one after the other, and a last 1 for what is in no group."""
        masks = self.decision.masks
        parts = []
        for g, logits in enumerate(self.gates):
            soft = logits.sigmoid()
            hard = torch.from_numpy(masks[g]).to(soft)
            parts.append(hard + self._shares[g] * (soft - soft.detach()))
        return torch.cat([*parts, torch.ones(1, device=parts[0].device if parts else None)])


def _first_bits(problem: BitProblem, start: PricedDecision) -> list[_Singles]:
    """Logits by what choices lose and pay together; the best is the one of the start."""
    results = []
    prices = bit_prices(problem, start.decision, start.price)
    for w, weight in enumerate(problem.weights):
        total = weight.loss + prices[w]
        behind = total - total.min(axis=1, keepdims=True)
        second = np.sort(behind, axis=1)[:, 1] if behind.shape[1] > 1 else np.ones(len(behind))
        unit = max(float(np.median(second)), np.finfo(np.float64).tiny)
        logits = -np.minimum(behind / unit, SURE)
        rows = np.arange(len(logits))
        logits[rows, start.decision.choice[w]] = np.maximum(
            logits[rows, start.decision.choice[w]], logits.max(axis=1) + 0.1
        )
        results.append(logits.astype(np.float32))
    return results


def _first_gates(problem: BitProblem, start: PricedDecision) -> list[_Singles]:
    """Logits by how much more a channel loses when it leaves than it pays while it stays."""
    results = []
    bits = bit_prices(problem, start.decision, start.price)
    channels = channel_prices(problem, start.decision, start.price)
    for g, group in enumerate(problem.groups):
        pays = np.full(group.width, channels[g])
        for w, weight in enumerate(problem.weights):
            of_group = weight.group == g
            best = (weight.loss + bits[w]).min(axis=1)
            np.add.at(pays, weight.channel[of_group], best[of_group])
        worth = (np.zeros(group.width) if group.removal is None else group.removal) - pays
        unit = max(float(np.median(np.abs(worth))), np.finfo(np.float64).tiny)
        logits = (
            np.clip(worth / unit, 0.1, SURE) * start.decision.masks[g]
            - np.clip(-worth / unit, 0.1, SURE) * ~start.decision.masks[g]
        )
        results.append(logits.astype(np.float32))
    return results


def _kept(logits: _Singles, group: GroupChoices) -> Any:
    """Channels that stay: those of positive logits, one at least; as many as there must be where that is fixed."""
    count = int(group.allowed[0]) if len(group.allowed) == 1 else max(int((logits > 0).sum()), 1)
    mask = np.zeros(group.width, dtype=np.bool_)
    mask[np.argsort(-logits, kind="stable")[:count]] = True
    return mask


def _places(structure: Structure, gates: Gates, parameters: Mapping[str, Tensor]) -> dict[tuple[str, int], Tensor]:
    """Which channel of ``_stays`` every position along a dimension of a parameter belongs to."""
    end = sum(group.width for group in structure.prunable)
    places: dict[tuple[str, int], Tensor] = {}
    first = 0
    for group in structure.prunable:
        for slot in gates.slots(group):
            tensor = parameters[slot.parameter]
            index = places.setdefault(
                (slot.parameter, slot.dim),
                torch.full((tensor.shape[slot.dim],), end, dtype=torch.int64, device=tensor.device),
            )
            numbers = torch.arange(first, first + group.width, device=tensor.device)
            index[torch.from_numpy(slot.index).to(tensor.device)] = numbers[:, None]
        first += group.width
    return places


def _owners(network: nn.Module, problem: BitProblem) -> list[str]:
    owners = {weight.name.rpartition(".")[0] for weight in problem.weights}
    return [name for name, _ in network.named_modules() if name in owners]


def _unlikely(logits: Tensor) -> Floats:
    values = logits.detach().double().log_softmax(dim=1)
    behind: Floats = (values.max(dim=1, keepdim=True).values - values).cpu().numpy()
    return behind


def _leaving(logits: Tensor) -> Floats:
    """``-log(1 - sigmoid)`` less ``-log sigmoid``: what a channel loses more when it leaves than when it stays."""
    values: Floats = logits.detach().double().cpu().numpy()
    return values
