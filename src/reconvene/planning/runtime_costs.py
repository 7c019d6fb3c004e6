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
from reconvene.planning.assemble import found
from reconvene.planning.session import Planner
from reconvene.surgery import Plan

# Both follow the cost that is planned with closely: the second plan is nearly always right.
ATTEMPTS, ENOUGH = 6, 0.98
Keep = Callable[[Budget], Plan]
"""Plans for a budget whose cost is what can be predicted."""


@dataclass(frozen=True)
class Scales:
    """What weighs a network: ``cost`` is that of the budget, ``fixed`` whether what is not predicted is a constant."""

    cost: str
    weigh: Callable[[nn.Module], int]
    what: str
    hint: str = ""
    fixed: bool = True


def file_size(planner: Planner, formats: Sequence[str], precision: str) -> Scales:
    """Bytes of the largest of the exported files, one export a format: weights, and a graph of about constant size."""
    inputs = planner.example_inputs
    what = f"{', '.join(formats)} in {precision}" if precision != "fp32" else ", ".join(formats)
    return Scales(
        "size",
        lambda model: weigh(model, inputs, formats, precision),
        f"that of the exported file: {what}",
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
    asked = read(scales.cost, value)
    dense = scales.weigh(planner.model)
    limit = int(asked.of(dense))
    aim, best, least, at_floor = limit, None, float("inf"), False
    for _ in range(ATTEMPTS):
        if aim < 1:
            break
        try:
            made = keep(replace(budget, **{scales.cost: aim}))
        except BudgetError as error:
            floor = error.floor.get(scales.cost, 0.0)
            if best is None and not at_floor and floor > aim:
                aim, at_floor = ceil(floor), True  # the floor is a prediction too: the smallest network is weighed
                continue
            if best is None:
                raise _refused(value, limit, scales, least, None if at_floor else error) from error
            break
        weight = scales.weigh(made.apply(planner.model))
        least = min(least, weight)
        if weight <= limit and (best is None or weight > best[0]):
            best = weight, made
        whole = all(row.width == row.dense for row in made.rows)
        if ENOUGH * limit <= weight <= limit or (whole and weight <= limit):
            break
        follow = aim + limit - weight if scales.fixed else int(aim * limit / weight)
        if best is not None and weight > limit:  # between one that kept it and one that did not
            follow = (follow + aim) // 2 if follow < aim else aim - 1
        aim = follow
    if best is None:
        raise _refused(value, limit, scales, least, None)
    weight, made = best
    note = f"{scales.cost} is {scales.what}"
    return found(made, budget, scales.cost, float(limit), pruned=weight, dense=dense, note=note)


def weigh(model: nn.Module, inputs: Any, formats: Sequence[str], precision: str = "fp32") -> int:
    """Bytes of the largest of the model's exported files, one export a format; int8 is calibrated on noise."""
    sizes = []
    for name in formats:
        runtime = format_named(name)
        with tempfile.TemporaryDirectory(prefix="reconvene-weigh-") as folder:
            own = own_inputs(model, inputs)
            settings = stand_in(own) if precision == "int8" else None
            files = write(runtime, model, own, Path(folder) / f"model{runtime.suffix}", settings)
            sizes.append(sum(file.stat().st_size for file in files))
    return max(sizes)


def _refused(value: Any, limit: int, scales: Scales, least: float, error: BudgetError | None) -> BudgetError:
    why = f": {error}" if error is not None else ""
    if least < float("inf"):
        why += f". The smallest network that was looked at takes {least:,.0f} bytes: that is the floor"
    floor = dict(error.floor) if error is not None else {scales.cost: least}
    return BudgetError(
        f"{scales.cost} {value} (at most {limit:,} bytes, {scales.what}{scales.hint}) cannot be kept{why}",
        floor,
        error.pinned if error is not None else None,
    )
