"""Budgets on what only a runtime tells: planned, looked up, and planned again with what was learned.

The bytes of an exported file, and the memory a runtime plans for activations.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import ceil
from pathlib import Path
from typing import Any

from torch import nn

from reconvene.allocation import Budget
from reconvene.allocation.budget import read
from reconvene.deploy.exporter import write
from reconvene.deploy.memory import planned_memory
from reconvene.deploy.model_io import own_inputs
from reconvene.deploy.quantisation import stand_in
from reconvene.deploy.registry import format_named
from reconvene.errors import BudgetError
from reconvene.planning.assemble import with_measured_cost
from reconvene.planning.session import Planner
from reconvene.surgery import Plan

# Both follow the cost that is planned with closely: the second plan is nearly always right.
ATTEMPTS, ENOUGH = 6, 0.98
Keep = Callable[[Budget], Plan]
"""Plans for a budget whose cost is what can be predicted."""


@dataclass(frozen=True)
class Scales:
    """How to weigh a network for one cost of the budget; ``fixed``: the part that is not predicted is a constant."""

    cost: str
    weigh: Callable[[nn.Module], int]
    label: str
    hint: str = ""
    fixed: bool = True


def file_size(planner: Planner, formats: Sequence[str], precision: str) -> Scales:
    """Bytes of the largest of the exported files, one export a format: weights, and a graph of about constant size."""
    inputs = planner.example_inputs
    format_list = f"{', '.join(formats)} in {precision}" if precision != "fp32" else ", ".join(formats)
    return Scales(
        "size",
        lambda model: weigh(model, inputs, formats, precision),
        f"that of the exported file: {format_list}",
        ", of which the graph itself takes some",
    )


def runtime_memory(planner: Planner, plan: str, precision: str) -> Scales:
    """Bytes that a runtime plans for activations."""
    inputs = planner.example_inputs
    return Scales(
        "peak_memory",
        lambda model: planned_memory(model, inputs, plan=plan, precision=precision),
        f"that of the plan of {plan} in {precision}",
        ", of which its allocator and its kernels take some",
        fixed=False,
    )


def keep_weighed(planner: Planner, budget: Budget, scales: Scales, keep: Keep) -> Plan:
    """A plan whose network keeps the budget on the scales; shares are of the dense network on the same scales.

    Raises BudgetError with the floor, UnknownNameError (format, plan), MissingExtraError, ExportError.
    """
    value = budget.asked[scales.cost]
    requested = read(scales.cost, value)
    dense = scales.weigh(planner.model)
    limit = int(requested.of(dense))
    target, best, smallest_bytes, at_floor = limit, None, float("inf"), False
    for _ in range(ATTEMPTS):
        if target < 1:
            break
        try:
            plan = keep(replace(budget, **{scales.cost: target}))
        except BudgetError as error:
            floor = error.floor.get(scales.cost, 0.0)
            if best is None and not at_floor and floor > target:
                target, at_floor = ceil(floor), True  # the floor is a prediction too: the smallest network is weighed
                continue
            if best is None:
                raise _refused(value, limit, scales, smallest_bytes, None if at_floor else error) from error
            break
        weight = scales.weigh(plan.apply(planner.model))
        smallest_bytes = min(smallest_bytes, weight)
        if weight <= limit and (best is None or weight > best[0]):
            best = weight, plan
        is_dense = all(row.width == row.dense for row in plan.rows)
        if ENOUGH * limit <= weight <= limit or (is_dense and weight <= limit):
            break
        next_target = target + limit - weight if scales.fixed else int(target * limit / weight)
        if best is not None and weight > limit:  # between one that kept it and one that did not
            next_target = (next_target + target) // 2 if next_target < target else target - 1
        target = next_target
    if best is None:
        raise _refused(value, limit, scales, smallest_bytes, None)
    weight, plan = best
    note = f"{scales.cost} is {scales.label}"
    return with_measured_cost(plan, budget, scales.cost, float(limit), pruned=weight, dense=dense, note=note)


def weigh(model: nn.Module, inputs: Any, formats: Sequence[str], precision: str = "fp32") -> int:
    """Bytes of the largest of the model's exported files, one export a format; int8 is calibrated on noise."""
    sizes = []
    for name in formats:
        runtime = format_named(name)
        with tempfile.TemporaryDirectory(prefix="reconvene-weigh-") as folder:
            export_inputs = own_inputs(model, inputs)
            settings = stand_in(export_inputs) if precision == "int8" else None
            files = write(runtime, model, export_inputs, Path(folder) / f"model{runtime.suffix}", settings)
            sizes.append(sum(file.stat().st_size for file in files))
    return max(sizes)


def _refused(value: Any, limit: int, scales: Scales, smallest_bytes: float, error: BudgetError | None) -> BudgetError:
    why = f": {error}" if error is not None else ""
    if smallest_bytes < float("inf"):
        why += f". The smallest network that was looked at takes {smallest_bytes:,.0f} bytes: that is the floor"
    floor = dict(error.floor) if error is not None else {scales.cost: smallest_bytes}
    return BudgetError(
        f"{scales.cost} {value} (at most {limit:,} bytes, {scales.label}{scales.hint}) cannot be kept{why}",
        floor,
        error.pinned if error is not None else None,
    )
