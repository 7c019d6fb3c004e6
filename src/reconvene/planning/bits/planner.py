"""``rc.plan(..., bits=...)``: widths and bits together, in seconds and without training."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from operator import index
from types import MappingProxyType
from typing import Any

import torch
from torch import nn

from reconvene import devices, rectifier
from reconvene.costs import Budget, Cost, Network
from reconvene.costs.cost_file import FileCost
from reconvene.costs.model import CostModel
from reconvene.criteria.batches import Batches, argument_names, batch_count, samples_in
from reconvene.criteria.few_examples import few_of, gathered
from reconvene.errors import ArgumentError, DataError, DeviceError
from reconvene.planning.assemble import PreparedModel, plan_from_choice, timed
from reconvene.planning.bits.decider import BitDecider
from reconvene.planning.feedback import plan_within
from reconvene.planning.options import Options
from reconvene.planning.target import Target, profile_in
from reconvene.quantiser import fake_quantised
from reconvene.quantiser.activations import BITS, RoundedInputs
from reconvene.structure.fresh import know_state
from reconvene.structure.inputs import map_tensors
from reconvene.structure.restore import kept_random_state
from reconvene.surgery import Plan
from reconvene.surgery.bits import BitPlan
from reconvene.utils.notes import Note
from reconvene.utils.progress import listening

CHOICES = (0, 2, 4, 8)
"""Bits that weights can have, since files hold these: zero is a channel that leaves."""
KEPT_EXAMPLES = 64


def plan_bits(model: nn.Module, example_inputs: Any, budget: Budget, options: Options, bits: Sequence[int]) -> Plan:
    """The plan of widths and bits that keeps a budget.

    Raises BudgetError for a budget that cannot be kept, with the floor, and ArgumentError for bits or options that no
    plan of bits has. Others as for ``rc.plan``.
    """
    allowed = check_bits(bits)
    refuse_options(options, budget)
    planner = BitPlanner(model, example_inputs, budget, options, allowed)
    seconds: dict[str, float] = {}
    with ExitStack() as stack:
        with timed(seconds, "profile"):
            answers = stack.enter_context(in_int8(options.target).costs(planner, budget))
        corrected = corrected_costs(planner, budget, answers.costs)
        if not corrected:
            return replace(planner.plan(budget), calibration=kept_examples(model, example_inputs, options))
        asked = Budget(**{name: budget.asked[name] for name in corrected})
        step = options.round_to or (answers.round_to if "latency" in corrected else 1)
        plan = plan_within(planner, asked, corrected, round_to=step, refine=False)
    plan.timings.update(seconds)
    return replace(plan, calibration=kept_examples(model, example_inputs, options))


def in_int8(target: Target) -> Target:
    """The target of the file that a plan of bits becomes, whose layers run in int8. Raises DeviceError."""
    if target.device is None or target.device == devices.HERE:
        return replace(target, precision="int8")
    profile = profile_in(target.device, None)
    if profile.precision != "int8":
        raise DeviceError(
            f"files of a plan of bits run in int8, and the profile of {profile.name or 'the device'} was measured in "
            f"{profile.precision}. Measure it again: reconvene device profile MODEL --precision int8 -o PROFILE.json"
        )
    return replace(target, device=profile, precision="int8")


def corrected_costs(planner: BitPlanner, budget: Budget, costs: Mapping[str, Cost]) -> dict[str, Cost]:
    """Costs of the budget whose true value follows from a measurement, or that a bound stands for while widths move."""
    with_bits = {"size", *(name for name, cost in planner.costs.items() if isinstance(cost, FileCost))}
    of_widths = {name: costs[name] for name in budget.asked if name not in with_bits}
    model = planner.cost_model(of_widths)
    return {name: cost for name, cost in of_widths.items() if cost.measured or model.has_only_lower_bound(name)}


class BitPlanner:
    """Makes plans of widths and bits of one model and budget; see ``planning.session.Plans``."""

    def __init__(
        self, model: nn.Module, example_inputs: Any, budget: Budget, options: Options, bits: tuple[int, ...]
    ) -> None:
        self.model, self.example_inputs, self.seed = model, example_inputs, options.seed
        self._budget, self._options, self._bits = budget, options, bits
        self._analysis: dict[str, float] = {}
        self._losses: dict[int, Any] = {}
        with timed(self._analysis, "structure"):
            self.prepared = PreparedModel.of(
                model, example_inputs, seed=options.seed, limits=options.limits, data=options.data, must_prune=False
            )

    @property
    def costs(self) -> dict[str, Cost]:
        """The costs that plans of bits count by themselves."""
        return BitDecider(self.model, self.example_inputs, self._budget, self._options, self._bits).costs

    def cost_model(self, costs: Mapping[str, Cost] | None = None) -> CostModel:
        """See Plans."""
        network = Network(self.model, self.example_inputs, self._options.data)
        return CostModel(self.prepared.structure, costs, network)

    def plan(
        self,
        budget: Budget,
        *,
        costs: Mapping[str, Cost] | None = None,
        limits: Mapping[str, float] = MappingProxyType({}),
        round_to: int | None = None,
        refine: bool = False,
    ) -> Plan:
        """The plan for the whole budget, ``budget`` the part of it that ``costs`` answer to, with these limits."""
        options = self._options if round_to is None else replace(self._options, round_to=round_to)
        decider = BitDecider(
            self.model,
            self.example_inputs,
            self._budget,
            options,
            self._bits,
            answers=costs or {},
            aims=limits,
            known=self._losses,
        )
        plan = plan_from_choice(
            self.model,
            self.example_inputs,
            lambda structure, _, timings: decider.choose(structure, timings),
            seed=self.seed,
            prepared=self.prepared,
            verified=options.verify,
        )
        plan.timings["structure"] = plan.timings.get("structure", 0.0) + self._analysis.pop("structure", 0.0)
        return plan


ROUNDED_NORMS = Note("norms have the statistics of the network with rounded weights", "norms")


def fit_norms(small: nn.Module, plan: Plan, bits: BitPlan, example_inputs: Any, options: Options) -> None:
    """Give norms the statistics of the network with rounded weights, and of few bits of activations, in place.

    Rounding to few bits makes activations smaller. MiniResNet on digits at 2 bits a weight: 90 % of test images are
    right without this, 98 % with it.
    """
    rounded = fake_quantised(small, bits.by_weight)
    know_state(rounded, example_inputs)  # before the hooks of ranges, which the recorded pass must not meet
    few = RoundedInputs(rounded, bits.inputs, bits.inputs)
    with few.rounding(follow=True):
        rectifier.rectify(rounded, plan, example_inputs, how="recalibrate", seed=options.seed, data=options.data)
    buffers = dict(rounded.named_buffers())
    for name, buffer in small.named_buffers():
        buffer.copy_(buffers[name])


def check_bits(bits: Sequence[int]) -> tuple[int, ...]:
    """Bits to choose from, ascending. Raises ArgumentError for others than files can hold."""
    values = _whole(bits)
    if not values or not set(values) <= set(CHOICES) or values == (0,):
        raise ArgumentError(f"bits={bits!r} are not some of {CHOICES}, beside zero. Try: bits=(0, 2, 4, 8)")
    return values


def _whole(bits: Sequence[int]) -> tuple[int, ...]:
    """The numbers in order, each once; none where some are not whole."""
    if isinstance(bits, str | bytes) or not isinstance(bits, Iterable) or any(isinstance(b, bool) for b in bits):
        return ()
    try:
        return tuple(sorted({index(b) for b in bits}))  # integers of numpy too
    except TypeError:
        return ()


def check_activation_bits(bits: Sequence[int]) -> tuple[int, ...]:
    """Bits of activations to choose from, ascending. Raises ArgumentError for others than 2, 4 and 8."""
    values = _whole(bits)
    if not values or not set(values) <= set(CHOICES[1:]):
        raise ArgumentError(f"activation_bits={bits!r} are not some of {CHOICES[1:]}. Try: activation_bits=(4, 8)")
    return values


def refuse_options(options: Options, budget: Budget) -> None:
    """Raise ArgumentError for what a plan of bits does not know: better than to read past it."""
    target = options.target
    given = {
        "device without a budget on latency": target.device is not None and "latency" not in budget,
        "size_of": bool(target.size_of),
        "memory_of": target.memory_of is not None,
        "precision": target.precision is not None,
        "activation_bits and latency, which int8 kernels do not gain by": "latency" in budget
        and options.activation_bits != (BITS,),
        "criterion": options.criterion is not None,
        "evaluator": options.evaluator is not None,
    }
    if refused := [name for name, is_given in given.items() if is_given]:
        raise ArgumentError(
            f"bits are not decided together with {', '.join(refused)}. Limit size, params_bit, ops_bit, params, macs, "
            "peak_memory or latency, or cycles and energy of a target; channels are chosen by what the plan of bits "
            "estimates"
        )


def kept_examples(model: nn.Module, example_inputs: Any, options: Options) -> Any:
    """Inputs of a few examples, to calibrate an export on, as the model takes them; None without data.

    The seed of the options decides what the data draw, so the same examples are chosen whatever was drawn before.
    """
    if options.data is None:
        return None
    names, cpu = argument_names(model, example_inputs), torch.device("cpu")
    user, seed = "the plan of bits", options.seed
    with kept_random_state(), listening(False):
        few = few_of(options.data, KEPT_EXAMPLES)
        batches = Batches(few, user=user, device=cpu, seed=seed, names=names, labelled=False, error=DataError)
        parts = gathered((inputs for inputs, _ in batches), KEPT_EXAMPLES, to_the_end=batch_count(few) is not None)
    largest = max(parts, key=samples_in)  # batches may differ in shape
    return map_tensors(lambda tensor: tensor.detach().clone(), largest)
