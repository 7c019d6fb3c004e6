"""Large networks: work grows in proportion to the layers, and deep nesting is no trouble."""

from __future__ import annotations

import sys
import tracemalloc
from types import FrameType

import pytest
import torch
from torch import nn

import reconvene as rc
from reconvene.costs.model import CostModel
from reconvene.structure import analyse
from reconvene.structure.nesting import DEEPEST

INPUTS = torch.ones(1, 8)
BUDGET = rc.Budget(params="2x")


def chain(layers: int) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(*(module for _ in range(layers) for module in (nn.Linear(8, 8), nn.ReLU())))


def nested(levels: int) -> nn.Module:
    model: nn.Module = chain(2)
    for _ in range(levels):
        model = nn.Sequential(model)
    return model


def calls_of_plan(layers: int) -> int:
    """How many Python functions a plan calls: what it costs, whatever the machine."""
    model, count = chain(layers), 0

    def see(frame: FrameType, event: str, _: object) -> None:
        nonlocal count
        count += event == "call"

    sys.setprofile(see)
    try:
        rc.plan(model, INPUTS, BUDGET)
    finally:
        sys.setprofile(None)
    return count


def test_work_grows_in_proportion_to_the_layers() -> None:
    rc.plan(chain(5), INPUTS, BUDGET)  # imports
    assert calls_of_plan(80) < 4.6 * calls_of_plan(20)


def bytes_of_costs(layers: int) -> int:
    """The most memory that the costs of a network take while they are evaluated."""
    structure = analyse(chain(layers), INPUTS)
    tracemalloc.start()
    try:
        CostModel(structure).exact_all(structure.widths // 2)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_costs_take_memory_in_proportion_to_the_layers() -> None:
    bytes_of_costs(10)  # imports
    assert bytes_of_costs(400) < 5 * bytes_of_costs(100)


def test_deep_nesting_is_planned_under_the_usual_limit_of_calls() -> None:
    model, limit = nested(1500), sys.getrecursionlimit()
    assert limit < 1500
    plan = rc.plan(model, INPUTS, BUDGET)
    plan.apply(model)
    assert sys.getrecursionlimit() == limit
    assert plan.costs["pruned"]["params"] <= plan.costs["dense"]["params"] / 2


def test_nesting_that_no_stack_holds_is_a_plain_error() -> None:
    limit = sys.getrecursionlimit()
    with pytest.raises(rc.ReconveneError, match="levels deep"):
        rc.plan(nested(DEEPEST + 1), INPUTS, BUDGET)
    assert sys.getrecursionlimit() == limit
