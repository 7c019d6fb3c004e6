"""A plan and the network that it makes, with their options as one object."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any, NamedTuple

from torch import nn

from reconvene import rectifier
from reconvene.costs import Budget
from reconvene.criteria.batches import loader_examples
from reconvene.errors import ArgumentError
from reconvene.evaluator.evaluators import evaluator_named, usual_evaluator
from reconvene.planning.assemble import timed
from reconvene.planning.bits.planner import ROUNDED_NORMS, fit_norms, plan_bits
from reconvene.planning.feedback import plan_within
from reconvene.planning.options import Options
from reconvene.planning.session import Planner
from reconvene.planning.target import Target
from reconvene.planning.trained_weights import TrainedWeightsWarning, UntrainedWeightsWarning, moved_norms
from reconvene.quantiser.activations import BITS
from reconvene.rectifier import RectifyReport
from reconvene.structure.nesting import on_model
from reconvene.structure.patches import exclusive
from reconvene.structure.restore import accelerators, kept_random_state
from reconvene.surgery import Plan
from reconvene.surgery.compose import compose_plans
from reconvene.utils import progress
from reconvene.utils.arguments import warn_caller
from reconvene.utils.notes import Note


class Pruned(NamedTuple):
    """The small network, its plan, and how its spread compares with the dense network's."""

    model: nn.Module
    plan: Plan
    report: RectifyReport


@on_model
def plan_by(model: nn.Module, example_inputs: Any, budget: Budget, options: Options) -> Plan:
    """``plan`` with its options as one object."""
    options = options.repeatable()  # several estimates read the data
    if options.bits is not None:
        chosen_plan = plan_bits(model, example_inputs, budget, options, options.bits)
    elif options.activation_bits != (BITS,):
        raise ArgumentError("activation_bits are decided together with bits of weights. Try: bits=(0, 2, 4, 8)")
    else:
        planner = options.planner(model, example_inputs)
        chosen_plan = plan_with(planner, budget, round_to=options.round_to, target=options.target)
    examples = loader_examples(options.data) if options.examples is None else options.examples
    return replace(chosen_plan, examples=examples)


def plan_of_dense(dense: nn.Module, example_inputs: Any, first: Plan, second: Plan, options: Options) -> Plan:
    """Both plans as one of the dense network, with the costs of that which ``second`` alone counts.

    ``options`` are those of ``second``: its target and bits say what its costs are about. Raises PlanError.
    """
    unknown = [name for name in second.costs["pruned"] if name not in first.costs.get("dense", {})]
    costs = _dense_costs(dense, example_inputs, unknown, options) if unknown else {}
    return compose_plans(dense, example_inputs, first, second, dense_costs=costs)


def _dense_costs(model: nn.Module, example_inputs: Any, names: Sequence[str], options: Options) -> dict[str, float]:
    """These costs of a whole network, on the target and with the bits of the options."""
    plain = Options(
        data=options.data,
        seed=options.seed,
        loss=options.loss,
        target=options.target,
        bits=options.bits,
        activation_bits=options.activation_bits,
    )
    costs = plan_by(model, example_inputs, Budget(**dict.fromkeys(names, 1.0)), plain).costs["dense"]
    return {name: costs[name] for name in names}


def prune_by(
    model: nn.Module,
    example_inputs: Any,
    budget: Budget,
    options: Options,
    *,
    rectify: str | None = None,
    see: Callable[[nn.Module], object] | None = None,
) -> Pruned:
    """``prune`` with its options as one object; ``see`` sees the network as it is cut, before it is rectified."""
    with kept_random_state(accelerators(model)):
        return _pruned(model, example_inputs, budget, options, rectify, see)


def _pruned(
    model: nn.Module,
    example_inputs: Any,
    budget: Budget,
    options: Options,
    rectify: str | None,
    see: Callable[[nn.Module], object] | None,
) -> Pruned:
    options = options.repeatable()  # the criterion reads the data, and then the rectifier
    how = options.default_rectification if rectify is None else rectify
    _note_unread_criterion(options, how)
    note = _on_weights(model, options, how, asked=rectify is not None)
    chosen_plan = plan_by(model, example_inputs, budget, options)
    refits_norms = chosen_plan.bits is not None and options.data is not None and how in ("recalibrate", "reconstruct")
    notes = [*chosen_plan.notes, *([note] if note else []), *([ROUNDED_NORMS] if refits_norms else [])]
    chosen_plan = replace(chosen_plan, notes=notes)
    with timed(chosen_plan.timings, "surgery"):
        small = chosen_plan.apply(model)
    if see is not None:
        see(small)
    with timed(chosen_plan.timings, "rectify"):
        report = rectifier.rectify(
            small,
            chosen_plan,
            example_inputs,
            how=how,
            seed=options.seed,
            model=model,
            data=options.data,
        )
    if refits_norms:
        assert chosen_plan.bits is not None
        with timed(chosen_plan.timings, "rectify"):
            fit_norms(small, chosen_plan, chosen_plan.bits, example_inputs, options)
    return Pruned(small, chosen_plan, report)


def _note_unread_criterion(options: Options, how: str) -> None:
    """Say so where the criterion that was asked for leaves no trace in the network."""
    if options.criterion is None or options.trained or options.bits is not None or how != "reinit":
        return
    evaluator = options.evaluator or usual_evaluator(options.criterion)
    if not evaluator_named(evaluator).reads:
        progress.note(
            f"criterion {options.criterion!r} decides which channels are kept, but not how many ({evaluator} reads no "
            "scores), and reinit draws their weights anew, the same ones for every criterion. evaluator='density' "
            "(--evaluator density) chooses widths by it; rectify='keep' (--rectify keep) keeps the weights of its "
            "channels"
        )


def _on_weights(model: nn.Module, options: Options, how: str, *, asked: bool) -> Note | None:
    """What a plan should say of the weights; warns where trained ones would be lost and nobody asked for it."""
    moved = moved_norms(model)
    if options.trained:
        without = "" if options.data is not None else "; data= would let them be fitted to the dense network"
        looks_untrained = moved == []
        if not looks_untrained:
            return Note(f"the trained weights are kept ({how}{without})", "kept weights")
        note = Note(
            f"the weights are kept ({how}{without}), but this network looks untrained: its norms have the statistics "
            "that they begin with. Load the trained weights first: load_state_dict(...), --weights FILE, --pretrained",
            "kept weights",
        )
        warn_caller(note, UntrainedWeightsWarning)
        return note
    if not moved or asked:
        return None
    note = Note(
        f"this network looks trained (the statistics of {len(moved)} norm{'s' * (len(moved) > 1)} have moved, first of "
        f"layer {moved[0]!r}), and its touched layers are drawn anew. trained=True (--trained) keeps the weights; "
        "rectify='reinit' says that they may go",
        "weights",
    )
    warn_caller(note, TrainedWeightsWarning)
    return note


@exclusive()
def plan_with(
    planner: Planner,
    budget: Budget,
    *,
    round_to: int | None = None,
    target: Target = Target(),  # noqa: B008  # frozen
) -> Plan:
    """``plan`` for one of many budgets of a model."""
    timings: dict[str, float] = {}
    with ExitStack() as stack:
        with timed(timings, "profile"):
            answers = stack.enter_context(target.costs(planner, budget))
        # A step that was asked for, or is a device's own, is kept.
        refine = round_to is None and answers.refine
        step = answers.round_to if round_to is None else round_to
        chosen_plan = plan_within(planner, budget, answers.costs, round_to=step, refine=refine)
    return replace(chosen_plan, timings={**timings, **chosen_plan.timings})
