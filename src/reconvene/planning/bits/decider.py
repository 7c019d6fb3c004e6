"""What a plan of widths and bits decides: the problem of one model and budget, and the choice that a decision makes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from torch import nn

from reconvene.allocation.bit_problem import BitProblem, Decision, GroupChoices, InputChoices, WeightChoices
from reconvene.allocation.bit_solver import solve_bits
from reconvene.costs import COSTS, Budget, Cost, Network, cost_file, read_budget
from reconvene.costs.cost_file import CostFile, FileCost
from reconvene.costs.layers import Layer, LayerTable
from reconvene.costs.packed_size import PackedSize
from reconvene.costs.with_bits import BitCosts
from reconvene.errors import ArgumentError, BudgetError
from reconvene.planning.assemble import Choice, timed
from reconvene.planning.bits.input_losses import (
    input_losses_by_noise,
    input_losses_on_data,
    layer_of,
    tied_weights,
)
from reconvene.planning.bits.packable import unpackable
from reconvene.planning.bits.weight_losses import BitLosses, losses_by_noise, losses_on_data
from reconvene.planning.options import Options
from reconvene.quantiser.activations import BITS
from reconvene.structure import Structure
from reconvene.surgery import Accounting, PlanRow, Provenance
from reconvene.surgery.bits import BitPlan, LayerBits
from reconvene.surgery.ranges import to_text


@dataclass(frozen=True, eq=False)
class PosedProblem:
    """The problem of one structure, what choices lose in it, and what the dense network costs."""

    structure: Structure
    problem: BitProblem
    losses: BitLosses
    dense: Mapping[str, float]


@dataclass(frozen=True, eq=False)
class BitDecider:
    """Decides widths and bits of one model for one budget, again after each repair of its structure.

    ``bits``: those that weights may have; with 0 among them channels may leave. ``answers``: the cost that answers to
    a name, where that is not the usual one; ``aims``: limits to aim at instead of those of the budget, by cost.
    ``known``: losses by the id of the structure, which several deciders may share.
    """

    model: nn.Module
    example_inputs: Any
    budget: Budget
    options: Options
    bits: tuple[int, ...]
    answers: Mapping[str, Cost] = field(default_factory=dict)
    aims: Mapping[str, float] = field(default_factory=dict)
    known: dict[int, tuple[Structure, BitLosses, list[InputChoices]]] = field(default_factory=dict)

    @cached_property
    def costs(self) -> dict[str, Cost]:
        """The cost that answers to each name."""
        chip = {} if self.options.target.chip is None else cost_file(self.options.target.chip).costs
        costs = {name: cost for name, cost in COSTS.items() if cost.listed or name in self.budget}
        return {**costs, **chip, **self.answers, "size": PackedSize()}

    @property
    def _files(self) -> list[CostFile]:
        """The cost files that are counted."""
        return [cost.file for cost in self.costs.values() if isinstance(cost, FileCost)]

    def choose(self, structure: Structure, timings: dict[str, float]) -> Choice:
        """The choice in seconds; see ``plan_from_choice``. Raises BudgetError for what cannot be kept."""
        posed = self.pose(structure, timings)
        with timed(timings, "allocation"):
            decision = solve_bits(posed.problem)
        return self.choice(posed, decision, by="bits", why="width and bits by one price")

    def pose(self, structure: Structure, timings: dict[str, float]) -> PosedProblem:
        """The problem of a structure, its losses estimated in the model as it is."""
        self._check_weights()
        network = Network(self.model, self.example_inputs, self.options.data)
        table = LayerTable(structure)
        unpacked = unpackable(self.model, structure)
        charges = BitCosts(structure, self.costs, network, table=table, unpacked=unpacked, aimed=self.aims)
        layers = [layer for layer in table.layers if layer.weight and layer.weight not in unpacked]
        first = list({layer.weight: layer for layer in reversed(layers)}.values())[::-1]
        choices = tuple(b for b in self.bits if b)
        with timed(timings, "saliency"):
            if id(structure) not in self.known:
                inputs = self._inputs(charges.table.layers, [layer.weight for layer in first])
                self.known[id(structure)] = structure, self._losses(structure, first, choices), inputs
            _, losses, inputs = self.known[id(structure)]
        dense = {
            name: COSTS["size"].bind(structure, None).at(structure.widths)
            if name == "size"
            else cost.bind(structure, network).at(structure.widths)
            for name, cost in self.costs.items()
        }
        limits = {name: read_budget(name, value).of(dense[name]) for name, value in self.budget.asked.items()}
        limits |= self.aims
        groups = self._groups(structure, losses)
        weights = [_weight(structure, layer, charges.table.layers, choices, losses) for layer in first]
        problem = BitProblem(groups, weights, charges, limits, len(charges.table.layers), inputs=inputs)
        return PosedProblem(structure, problem, losses, dense)

    def choice(self, posed: PosedProblem, decision: Decision | None, *, by: str, why: str) -> Choice:
        """A decision as plans take it. Raises BudgetError, with the floor, for None.

        ``by``: what decided, for the whole plan; ``why``: for each of its groups.
        """
        problem, structure = posed.problem, posed.structure
        if decision is None:
            raise _floor(problem, self.budget, self.bits)
        keep = [np.flatnonzero(mask).astype(np.int64) for mask in decision.masks]
        rows = [
            PlanRow(group.name, group.width, len(channels), to_text(channels), why=_why(choices, len(channels), why))
            for group, channels, choices in zip(structure.prunable, keep, problem.groups, strict=True)
        ]
        bits = {}
        for w, weight in enumerate(problem.weights):
            chosen = decision.choice[w][problem.present(w, decision)]
            bits[weight.name] = LayerBits.of(weight.axis, np.array(weight.bits, dtype=np.int64)[chosen])
        pruned = {name: problem.cost(name, decision) for name in self.costs}
        provenance = Provenance(
            evaluator=by, data=posed.losses.data, budget=dict(self.budget.asked), limits=dict(problem.limits)
        )
        conditions = {name: _condition(cost) for name, cost in self.costs.items() if cost.condition and name in pruned}
        accounting = Accounting({"dense": dict(posed.dense), "pruned": pruned}, conditions=conditions)
        return Choice(keep, rows, provenance, accounting, bits=BitPlan(bits, inputs=problem.read_bits(decision)))

    def _losses(self, structure: Structure, layers: Sequence[Layer], bits: tuple[int, ...]) -> BitLosses:
        options = self.options
        if not options.trained or options.data is None:
            return losses_by_noise(self.model, structure, layers, bits, trained=options.trained)
        return losses_on_data(
            self.model,
            structure,
            self.example_inputs,
            layers,
            bits,
            data=options.data,
            loss=options.loss,
            seed=options.seed,
        )

    def _inputs(self, layers: Sequence[Layer], weights: Sequence[str]) -> list[InputChoices]:
        """What layers read, where its bits are to be decided; nothing where it has 8 anyway."""
        choices = self.options.activation_bits
        self._check_activations(choices)
        if choices == (BITS,):
            return []
        tied = tied_weights(self.model, layers, weights)
        names = sorted({layer_of(weights[w]) for several in tied for w in several})
        if self.options.trained and self.options.data is not None:
            losses = input_losses_on_data(self.model, self.example_inputs, names, choices, self.options)
        else:
            losses = input_losses_by_noise(self.model, self.example_inputs, names, choices, seed=self.options.seed)
        known = [several for several in tied if all(layer_of(weights[w]) in losses for w in several)]
        self._require_all_decided(layers, [weights[w] for several in known for w in several])
        return [
            InputChoices(several, choices, sum((losses[layer_of(weights[w])] for w in several), np.zeros(len(choices))))
            for several in known
        ]

    def _check_activations(self, choices: tuple[int, ...]) -> None:
        """Raise ArgumentError for bits of activations that a cost says nothing of, or for a model without values."""
        if choices != (BITS,) and any(parameter.is_meta for parameter in self.model.parameters()):
            raise ArgumentError("activation_bits are decided by what layers read, and this model is on meta")
        for file in self._files:
            known = file.activation_choices
            if not set(choices) <= set(known):
                raise ArgumentError(
                    f"activation_bits={choices}: {file.title} computes with activations of "
                    f"{', '.join(map(str, known))} bits. Try: activation_bits={known}"
                )

    def _check_weights(self) -> None:
        """Raise ArgumentError for bits of weights that a cost says nothing of."""
        for file in self._files:
            if not {*self.bits} - {0} <= {*file.weights}:
                known = tuple(b for b in (0, 2, 4, 8) if b in (0, *file.weights))
                raise ArgumentError(
                    f"bits={self.bits}: {file.title} computes with weights of "
                    f"{', '.join(map(str, file.weights))} bits. Try: bits={known}"
                )

    def _require_all_decided(self, layers: Sequence[Layer], decided: Sequence[str]) -> None:
        """Raise ArgumentError where a layer stays at 8 bits on a chip that has fewer."""
        left = next((layer.name for layer in layers if layer.weight not in decided), None)
        for file in self._files:
            if left is not None and file.activations < BITS:
                place = f"layer {left!r}" if left else "the model"
                raise ArgumentError(
                    f"{file.title} computes with activations of at most {file.activations} bits, and what "
                    f"{place} reads stays at {BITS}: it is "
                    "no convolution and no linear layer with a weight of its own"
                )

    def _groups(self, structure: Structure, losses: BitLosses) -> list[GroupChoices]:
        """Widths that groups may have: all of one where zero bits are not allowed, or equations tie it."""
        fixed = self.options.limits.fixed(self.model, structure)
        tied = {g for balance in structure.balances for piece in balance.pieces for g in piece}
        step = self.options.round_to or 1
        groups = []
        for g, group in enumerate(structure.prunable):
            allowed = np.array(sorted({*range(step, group.width, step), group.width}), dtype=np.int64)
            if g in fixed:
                allowed = np.array([fixed[g]], dtype=np.int64)
            elif 0 not in self.bits or g in tied:
                allowed = np.array([group.width], dtype=np.int64)
            removal = None if losses.removal is None else losses.removal[g]
            groups.append(
                GroupChoices(group.width, allowed, removal, None if losses.curves is None else losses.curves[g])
            )
        return groups


def _weight(
    structure: Structure, layer: Layer, layers: Sequence[Layer], bits: tuple[int, ...], losses: BitLosses
) -> WeightChoices:
    """Which channel of which group each output channel of a weight is."""
    loss = losses.weights[layer.weight]
    group, channel = np.full(len(loss), -1, dtype=np.int64), np.zeros(len(loss), dtype=np.int64)
    for g, of_group in enumerate(structure.prunable):
        for slot in of_group.slots:
            if slot.parameter == layer.weight and slot.dim == layer.axis:
                group[slot.index] = g
                channel[slot.index] = np.arange(of_group.width)[:, None]
    numbers = tuple(n for n, other in enumerate(layers) if other.weight == layer.weight)
    return WeightChoices(layer.weight, layer.axis, numbers, group, channel, bits, loss)


def _condition(cost: Cost) -> str:
    """What the figure of a cost is about. Plans of bits count by formulas where a compiler would know better."""
    if isinstance(cost, FileCost) and cost.file.compiler is not None:
        return f"predicted for {cost.file.title} by formulas; plans of bits do not ask its compiler"
    return cost.condition


def _floor(problem: BitProblem, budget: Budget, bits: Sequence[int]) -> BudgetError:
    """The error for a budget that even the cheapest decision breaks."""
    least = problem.least()
    floor = {name: problem.cost(name, least) for name in problem.limits}
    parts = [
        f"{name} {budget.asked[name]} (at most {COSTS[name].unit.phrase(limit)}) cannot be kept: with the fewest "
        f"channels and bits it is {COSTS[name].unit.phrase(floor[name])}"
        for name, limit in problem.limits.items()
        if floor[name] > limit
    ]
    fixed = problem.groups and all(len(group.allowed) == 1 for group in problem.groups)
    hint = " (no channel may leave: with 0 among the bits they can)" if fixed and 0 not in bits else ""
    return BudgetError(f"{'; '.join(parts)}{hint}. Ask for no less than the floor", floor)


def _why(group: GroupChoices, width: int, why: str) -> str:
    if len(group.allowed) == 1:
        return "stays whole" if width == group.width else "the width that was asked for"
    return why
