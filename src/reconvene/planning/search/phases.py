"""The phases of a search: what is trained in each, and what a step of it does beside the step of the weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from reconvene.allocation.bit_prices import finish_slope
from reconvene.allocation.bit_solver import filled_decision, solve_bits, solve_priced
from reconvene.criteria.base import Loss
from reconvene.planning.assemble import Choice, PreparedModel, plan_from_choice
from reconvene.planning.bits.decider import BitDecider
from reconvene.planning.bits.planner import ROUNDED_NORMS
from reconvene.planning.search.network import SearchNetwork
from reconvene.structure import Structure, call
from reconvene.surgery import Plan
from reconvene.surgery.bits import BitPlan
from reconvene.training.adam import Adam
from reconvene.training.frozen_bits import RoundedByBits

_UPDATES = 50
"""How often in a search the multipliers move, with the slopes of the costs and the scales of weights."""
ADAPTING = 0.2
"""Share of a search in which choices stand still, and weights get used to what the plan in seconds decided."""
FIRM = 20.0
"""How many multiples of itself a multiplier gains when the budget is exceeded by all of it."""
SLACK = 0.1
"""Excess beyond which multipliers grow no faster: choices follow after a while, and would then go too far."""
LEAST_MULTIPLIER = 0.01
"""A multiplier below it stands for a loss that nobody would notice; steps of the multipliers are not smaller."""
CHOICE_RATE = 0.03
"""Largest learning rate of the logits of choices, by Adam; it falls to zero by a cosine."""


class Phase(Protocol):
    """One phase. ``network`` is trained; the run steps its weights."""

    name: str
    network: nn.Module

    def objective(self, inputs: Any, target: Any, *, step: int, steps: int) -> tuple[Tensor, Tensor]:
        """The loss of one batch, and what is minimised; ``step`` of ``steps`` of the phase."""

    def after_step(self, step: int, steps: int) -> None:
        """What follows the step of the weights; ``step`` of ``steps`` of the phase are done."""

    def tensors(self) -> dict[str, Tensor]:
        """What a checkpoint has to keep beside the network and the momentum; restored in place."""

    def use(self) -> float | None:
        """The largest share of a limit that is used; None where nothing is decided."""


class FloatPhase:
    """The network as it is."""

    name = "warm-up"

    def __init__(self, network: nn.Module, loss: Loss) -> None:
        self.network, self._loss = network, loss

    def objective(self, inputs: Any, target: Any, *, step: int, steps: int) -> tuple[Tensor, Tensor]:
        """See Phase."""
        loss = self._loss(call(self.network, inputs), target)
        return loss.detach(), loss

    def after_step(self, step: int, steps: int) -> None:
        """See Phase."""

    def tensors(self) -> dict[str, Tensor]:
        """See Phase."""
        return {}

    def use(self) -> float | None:
        """See Phase."""
        return None


class FrozenPhase:
    """The small network with the bits of its plan."""

    name = "fine-tuning"

    def __init__(self, network: nn.Module, bits: BitPlan, loss: Loss, use: float) -> None:
        self.network, self._loss, self._use = network, loss, use
        self.rounded = RoundedByBits(network, bits)

    def objective(self, inputs: Any, target: Any, *, step: int, steps: int) -> tuple[Tensor, Tensor]:
        """See Phase."""
        self.rounded.at(step / steps)
        loss = self._loss(self.rounded.call(inputs), target)
        return loss.detach(), loss

    def after_step(self, step: int, steps: int) -> None:
        """See Phase."""

    def tensors(self) -> dict[str, Tensor]:
        """See Phase."""
        return dict(self.rounded.rounding.named_buffers())

    def use(self) -> float | None:
        """See Phase."""
        return self._use


class SearchPhase:
    """Weights and choices together, under an augmented Lagrangian of the limits.

    The penalty of cost ``j`` is ``(max(0, mu + rho h)^2 - mu^2) / 2 rho`` with ``h = cost / limit - 1`` of the present
    decision, and ``_UPDATES`` times ``mu <- max(0, mu + rho h)``, ``h``
    within ``SLACK``. Its gradient goes to the choices through the
    slopes of the cost (``bit_prices``). The first multipliers are the price that the plan in seconds was decided by.
    """

    name = "search"

    def __init__(self, network: nn.Module, example_inputs: Any, decider: BitDecider, loss: Loss) -> None:
        self.network, self._inputs, self._decider, self._loss = network, example_inputs, decider, loss
        options = decider.options
        self.prepared = PreparedModel.of(
            network, example_inputs, seed=options.seed, limits=options.limits, must_prune=False
        )
        self._plan(self._start)  # its trial repairs the structure
        problem, start = self.posed.problem, self._priced
        names = list(problem.limits)
        self.multipliers = torch.tensor(
            [max(start.price[name] * problem.limits[name], LEAST_MULTIPLIER) for name in names], dtype=torch.float64
        )
        self._firmness = FIRM * self.multipliers
        self.searched = SearchNetwork(network, self.posed.structure, problem, start)
        self._adam = Adam(self.searched.choices())
        self._bits: list[Tensor] = []
        self._gates: list[Tensor] = []
        self._excess = torch.zeros(len(names), dtype=torch.float64)
        self.count()

    def objective(self, inputs: Any, target: Any, *, step: int, steps: int) -> tuple[Tensor, Tensor]:
        """See Phase."""
        loss = self._loss(self.searched(inputs, follow=True), target)
        return loss.detach(), loss + self.penalty()

    def penalty(self) -> Tensor:
        """What the present choices cost, by the multipliers as they were when the budget was counted last."""
        return self.searched.penalty(self._bits, self._gates)

    def after_step(self, step: int, steps: int) -> None:
        """See Phase."""
        share = (step / steps - ADAPTING) / (1 - ADAPTING)
        self._adam.step(CHOICE_RATE * 0.5 * (1 + math.cos(math.pi * share)) if share > 0 else 0.0)
        if step * _UPDATES // steps > (step - 1) * _UPDATES // steps:
            self.searched.refresh()
            self.count()
            if share > 0:
                self.multipliers.add_(self._firmness * self._excess.clamp(-SLACK, SLACK)).clamp_(min=0.0)
                self.count()

    def count(self) -> None:
        """Count the present decision, and the gradient of the penalty by every choice."""
        problem, decision = self.posed.problem, self.searched.decision
        names = list(problem.limits)
        self._excess = torch.tensor(
            [problem.cost(name, decision) / problem.limits[name] - 1 for name in names], dtype=torch.float64
        )
        pushes = (self.multipliers + self._firmness * self._excess).clamp_min(0.0).tolist()
        price = {
            name: push * finish_slope(problem, decision, name) / problem.limits[name]
            for name, push in zip(names, pushes, strict=True)
        }
        self._bits, self._gates = self.searched.slopes(decision, price)

    def tensors(self) -> dict[str, Tensor]:
        """See Phase."""
        searched = {name: t for name, t in self.searched.state_dict().items() if not name.startswith("network.")}
        adam = {f"adam/{name}": tensor for name, tensor in self._adam.tensors.items()}
        counted = {f"cost/bits/{w}": slopes for w, slopes in enumerate(self._bits)}
        counted |= {f"cost/gates/{g}": slopes for g, slopes in enumerate(self._gates)}
        return {**searched, **adam, **counted, "excess": self._excess, "multipliers": self.multipliers}

    def use(self) -> float | None:
        """See Phase."""
        return 1 + float(self._excess.max())

    def project(self, aims: Mapping[str, float] = MappingProxyType({})) -> Plan:
        """The plan of the most likely decision within the limits (``max sum log theta``). Raises BudgetError.

        ``aims``: limits in place of those of the search, by cost.
        """

        def choose(structure: Structure, timings: dict[str, float]) -> Choice:
            posed = self.posed if structure is self.posed.structure else self._decider.pose(structure, timings)
            settled = self.searched.settled(posed.problem)
            posed = replace(posed, problem=replace(settled, limits={**settled.limits, **aims}))
            names = [group.name for group in structure.prunable]
            decision = solve_bits(self.searched.likelihoods(posed.problem, names))
            if decision is not None:  # what a search that stayed below its limits left over
                decision = filled_decision(posed.problem, decision)
            return self._decider.choice(posed, decision, by="search", why="width and bits by search")

        plan = self._plan(choose)
        return replace(plan, notes=[*plan.notes, ROUNDED_NORMS])

    def _start(self, structure: Structure, timings: dict[str, float]) -> Choice:
        """The choice in seconds. Raises BudgetError, with the floor, where no decision keeps the limits."""
        self.posed = self._decider.pose(structure, timings)
        priced = solve_priced(self.posed.problem)
        if priced is not None:
            self._priced = priced
        return self._decider.choice(self.posed, None if priced is None else priced.decision, by="bits", why="")

    def _plan(self, choose: Callable[[Structure, dict[str, float]], Choice]) -> Plan:
        options = self._decider.options
        self.network.eval()
        plan = plan_from_choice(
            self.network,
            self._inputs,
            lambda structure, _, timings: choose(structure, timings),
            seed=options.seed,
            prepared=self.prepared,
            verified=options.verify,
        )
        self.network.train()
        return plan


def restored(tensors: Mapping[str, Tensor], saved: Mapping[str, Tensor]) -> None:
    """Copy saved tensors into those of a phase."""
    with torch.no_grad():
        for name, tensor in tensors.items():
            tensor.copy_(saved[name])
