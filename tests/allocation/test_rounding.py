"""Steps of widths, as plans have them: multiples that are asked for are kept, the default fills narrow networks."""

from __future__ import annotations

import torch
from torch import nn

import reconvene as rc


def narrow() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(12, 32), nn.ReLU(), nn.Linear(32, 5))


def used(plan: rc.Plan) -> float:
    return plan.costs["pruned"]["params"] / plan.limits["params"]


def test_the_default_fills_a_budget_that_multiples_do_not_and_says_so() -> None:
    plan = rc.plan(narrow(), torch.randn(2, 12), rc.Budget(params=0.45))
    assert plan.rows[0].width == 14 and used(plan) > 0.9
    assert "in steps of 2" in plan.rows[0].why
    assert any("round_to=8 keeps multiples" in note for note in plan.notes)


def test_a_step_that_is_asked_for_is_kept() -> None:
    plan = rc.plan(narrow(), torch.randn(2, 12), rc.Budget(params=0.45), round_to=8)
    assert plan.rows[0].width == 8 and used(plan) < 0.6 and not plan.notes


def test_a_budget_that_multiples_use_is_planned_as_before() -> None:
    plans = [rc.plan(narrow(), torch.randn(2, 12), rc.Budget(params=0.52), round_to=step) for step in (None, 8)]
    assert used(plans[0]) >= 0.9
    assert plans[0].to_json() == plans[1].to_json()
