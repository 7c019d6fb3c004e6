"""A measured budget of which much is left over gets a remark."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import reconvene as rc
from reconvene.costs import COSTS, Cost
from reconvene.models import MODELS

X = torch.randn(1, 3, 32, 32)
DENSE = sum(parameter.numel() for parameter in MODELS["resnet20"](width=0.25).parameters())


class Jump(Cost):
    """Whatever is cut, takes ``after``; a network that nothing was cut from takes a hundred."""

    name, label, plural, less, meaning = "jump", "Jump", "jumps", "fewer", "Jumps of one inference: 2x."
    measured, listed = True, False

    def __init__(self, after: float) -> None:
        self.after = after

    def bind(self, structure: Any, network: Any) -> Any:
        return COSTS["params"].bind(structure, network)

    def measure(self, model: nn.Module, example_inputs: Any) -> float:
        return 100.0 if sum(parameter.numel() for parameter in model.parameters()) == DENSE else self.after


@pytest.mark.parametrize(("after", "remark"), [(10.0, "only 20% of the limit on jump is used"), (49.0, "")])
def test_a_limit_that_is_far_from_used_is_reported(monkeypatch: pytest.MonkeyPatch, after: float, remark: str) -> None:
    monkeypatch.setitem(COSTS, "jump", Jump(after))
    plan = rc.plan(MODELS["resnet20"](width=0.25), X, rc.Budget(jump="2x"))
    assert plan.costs["pruned"]["jump"] == after and plan.limits["jump"] == 50
    told = [note for note in plan.notes if "of the limit on" in note]
    assert (told and told[0].startswith(remark)) if remark else not told
