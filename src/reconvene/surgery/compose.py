"""Two plans, one of what the other leaves, as one plan of the dense model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from reconvene.costs import text_of
from reconvene.errors import PlanError
from reconvene.structure import Slot, analyse
from reconvene.structure.replay import replay
from reconvene.surgery.cut import PlanRow
from reconvene.surgery.plan import Plan, make_plan
from reconvene.surgery.provenance import Accounting
from reconvene.surgery.ranges import from_text, to_text
from reconvene.utils.notes import Note


def compose_plans(
    model: nn.Module,
    example_inputs: Any,
    first: Plan,
    second: Plan,
    *,
    dense_costs: Mapping[str, float] = MappingProxyType({}),
) -> Plan:
    """One plan of ``model`` that does what ``second`` does to the network that ``first`` makes of it.

    Args:
        model: the dense model that ``first`` is a plan of; only read.
        example_inputs: as for ``groups``.
        first: the earlier plan.
        second: a plan of ``first.apply(model)``.
        dense_costs: costs of ``model`` that only ``second`` counts, such as cycles on a chip. The result leaves out a
            cost that neither these nor ``first`` give of the dense network.

    Raises:
        PlanError: ``second`` is a plan of another network, takes apart what the dense network ties together, or says
            nothing of the bits that ``first`` decided.
    """
    if first.bits is not None and second.bits is None:
        raise PlanError(
            "the first plan decides bits of weights, and the second one does not, so they would be lost. "
            "Decide both again: bits=(0, 2, 4, 8)"
        )
    if differing := _differing_shape(first, second):
        raise PlanError(f"the second plan is not of the network that the first makes: {differing}")
    slices = _composed_slices(first, second)
    rows: dict[str, list[PlanRow]] = {}
    for row in (*second.rows, *first.rows):
        rows.setdefault(row.name, []).append(row)
    dense, pruned = {**dense_costs, **first.costs.get("dense", {})}, second.costs.get("pruned", {})
    both = [name for name in pruned if name in dense]
    accounting = Accounting(
        {"dense": {name: dense[name] for name in both}, "pruned": {name: pruned[name] for name in both}},
        spread=first.spread,
        examples=second.examples,
        conditions={name: text for name, text in second.conditions.items() if name in both},
        timings=dict(second.timings),
    )
    # What was asked of the second plan was about the network that the first left: as an amount it holds for both.
    budget = {name: text_of(name, limit) for name, limit in second.limits.items()}
    left_out = "is left out: no plan counted it of the dense network"
    unknown = [Note(f"{name} {left_out}", "cost") for name in pruned if name not in dense]
    notes = list(dict.fromkeys([*first.notes, *second.notes, *unknown]))
    combined = replace(second, budget=budget or second.budget, notes=notes)
    reasons = {name: _reason(of_group) for name, of_group in rows.items()}
    plan = _replanned(model, example_inputs, slices, reasons, combined, accounting)
    if plan.slices != slices:
        wrong = next(name for name in {**slices, **plan.slices} if plan.slices.get(name) != slices.get(name))
        raise PlanError(f"the second plan takes apart what the dense network ties together, first in {wrong}")
    return plan


def plan_of_replaced(model: nn.Module, example_inputs: Any, plan: Plan) -> Plan:
    """The plan with the same channels for ``model``, some of whose modules are others than when it was planned.

    Args:
        model: the dense network with the other modules; only read.
        example_inputs: as for ``groups``.
        plan: of the dense network before.

    Raises PlanError: channels are tied together in another way, so that the same ones cannot leave.
    """
    accounting = Accounting(**{entry.name: getattr(plan, entry.name) for entry in fields(Accounting)})
    reasons = {row.name: row.why for row in plan.rows}
    result = _replanned(model, example_inputs, plan.slices, reasons, plan, accounting)
    if wrong := [n for n, dims in plan.slices.items() if n in result.shapes and result.slices.get(n) != dims]:
        raise PlanError(f"the network with other operations ties channels together in another way, first in {wrong[0]}")
    return result


def _replanned(
    model: nn.Module,
    example_inputs: Any,
    slices: Mapping[str, Mapping[int, str]],
    reasons: Mapping[str, str],
    like: Plan,
    accounting: Accounting,
) -> Plan:
    """The plan of ``model`` that keeps the channels of ``slices``; provenance, notes and bits are those of ``like``."""
    structure = analyse(model, example_inputs)
    keep = [_kept(group.slots, group.width, slices) for group in structure.prunable]
    rows = [
        PlanRow(group.name, group.width, len(kept), to_text(kept), why=reasons.get(group.name, ""))
        for group, kept in zip(structure.prunable, keep, strict=True)
    ]
    return make_plan(
        model,
        structure,
        keep,
        rows,
        scalars=replay(model, example_inputs, structure, keep).scalars,
        provenance=like.provenance,
        accounting=accounting,
        notes=like.notes,
        bits=like.bits,
    )


def _reason(rows: Sequence[PlanRow]) -> str:
    """Why a group is as wide as it is: as the latest plan says that cut it, else as the latest one."""
    cutting = [row.why for row in rows if row.width < row.dense]
    return next(iter([*cutting, *(row.why for row in rows)]), "")


def _differing_shape(first: Plan, second: Plan) -> str:
    for name, shape in first.shapes.items():
        kept = [
            len(from_text(first.slices[name][dim])) if dim in first.slices.get(name, {}) else size
            for dim, size in enumerate(shape)
        ]
        if second.shapes.get(name) != kept:
            return f"{name} has shape {second.shapes.get(name)} instead of {kept}"
    return ""


def _composed_slices(first: Plan, second: Plan) -> dict[str, dict[int, str]]:
    """What both plans leave of every parameter, in positions of the dense one."""
    slices: dict[str, dict[int, str]] = {}
    for name, shape in first.shapes.items():
        for dim in range(len(shape)):
            one, two = first.slices.get(name, {}).get(dim), second.slices.get(name, {}).get(dim)
            if one is None and two is None:
                continue
            positions = np.arange(shape[dim], dtype=np.int64) if one is None else from_text(one)
            slices.setdefault(name, {})[dim] = to_text(positions if two is None else positions[from_text(two)])
    return slices


def _kept(slots: Sequence[Slot], width: int, slices: Mapping[str, Mapping[int, str]]) -> NDArray[np.int64]:
    """The channels of a group all of whose positions stay."""
    stays = np.ones(width, dtype=np.bool_)
    for slot in slots:
        text = slices.get(slot.parameter, {}).get(slot.dim)
        if text is not None:
            stays &= np.isin(slot.index, from_text(text)).all(axis=1)
    return np.flatnonzero(stays).astype(np.int64)
