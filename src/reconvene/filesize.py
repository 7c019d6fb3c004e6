"""Budgets on the size of an exported file: planned, exported, weighed, and planned again with what was learned."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from reconvene.allocation import Budget
from reconvene.allocation.budget import read
from reconvene.deploy.calling import own_inputs
from reconvene.deploy.registry import format_named
from reconvene.errors import BudgetError
from reconvene.planner import Planner
from reconvene.planning import found
from reconvene.surgery import Plan

# A file is its weights and a graph that hardly depends on widths: the second plan is nearly always right.
ATTEMPTS, ENOUGH = 4, 0.98


def keep_size(planner: Planner, budget: Budget, formats: Sequence[str], keep: Callable[[Budget], Plan]) -> Plan:
    """A plan whose files of all ``formats`` keep ``budget.size``; ``keep`` plans for a budget on ``model.safetensors``.

    Shares are of the dense network's largest file.

    Raises BudgetError with the floor, UnknownNameError (format), MissingExtraError, ExportError.
    """
    asked = read("size", budget.size or 1)
    dense = weigh(planner.model, planner.example_inputs, formats) if asked.share is not None else 0
    limit = int(asked.of(dense))
    aim, best, least = limit, None, float("inf")
    for _ in range(ATTEMPTS):
        if aim < 1:
            break
        try:
            made = keep(replace(budget, size=aim))
        except BudgetError as error:
            if best is None:
                raise _refused(budget, limit, formats, error) from error
            break
        weight = weigh(made.apply(planner.model), planner.example_inputs, formats)
        least = min(least, weight)
        if weight <= limit and (best is None or weight > best[0]):
            best = weight, made
        whole = all(row.width == row.dense for row in made.rows)
        if ENOUGH * limit <= weight <= limit or (whole and weight <= limit):
            break
        aim += limit - weight
    if best is None:
        raise _refused(budget, limit, formats, BudgetError("", {"size": least}))
    weight, made = best
    dense = dense or weigh(planner.model, planner.example_inputs, formats)
    note = f"size is that of the exported file: {', '.join(formats)}"
    return found(made, budget, "size", float(limit), pruned=weight, dense=dense, note=note)


def weigh(model: nn.Module, inputs: Any, formats: Sequence[str]) -> int:
    """Bytes of the largest of the model's exported files, one export a format."""
    sizes = []
    for name in formats:
        runtime = format_named(name)
        assert runtime.export is not None, "a runtime with a format can export"
        with tempfile.TemporaryDirectory(prefix="reconvene-weigh-") as folder:
            files = runtime.export(model, own_inputs(model, inputs), Path(folder) / f"model{runtime.suffix}")
            sizes.append(sum(file.stat().st_size for file in files))
    return max(sizes)


def _refused(budget: Budget, limit: int, formats: Sequence[str], error: BudgetError) -> BudgetError:
    found = f": {error}" if str(error) else f": the smallest file that was made has {error.floor['size']:,.0f} bytes"
    return BudgetError(
        f"size {budget.size} (at most {limit:,} bytes of {', '.join(formats)}, of which the graph itself takes some) "
        f"cannot be kept{found}",
        error.floor,
    )
