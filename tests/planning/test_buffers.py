"""Buffers that are no weights: masks of minus infinity, bounds, and tables that a model computes for every size."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import reconvene as rc
from reconvene.errors import CriterionError

X = torch.randn(2, 8, 16, generator=torch.Generator().manual_seed(0))


class Causal(nn.Module):
    """Attention under a mask of minus infinity, as GPT-like networks hold it, and an activation with an open bound."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(16, 96), nn.Linear(32, 16)
        self.mlp = nn.Sequential(nn.Linear(16, 64), nn.GELU(), nn.Linear(64, 16))
        self.register_buffer("mask", torch.full((8, 8), -torch.inf).triu(1))
        self.register_buffer("lowest", torch.tensor(-torch.inf))

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.qkv(x).view(len(x), 8, 3, 4, 8).permute(2, 0, 3, 1, 4)
        weights = (query @ key.transpose(-1, -2) / 8**0.5 + self.mask).softmax(-1)
        x = x + self.out((weights @ value).transpose(1, 2).reshape(len(x), 8, 32))
        return x + self.mlp(torch.maximum(x, self.lowest))


@pytest.mark.parametrize("criterion", ["synflow", "magnitude", "snip", "grasp"])
def test_masks_and_bounds_may_be_infinite(criterion: str) -> None:
    model = Causal()
    data = [(X, torch.zeros(2, 8, 16))] if criterion in ("snip", "grasp") else None
    options = {} if data is None else {"data": data, "loss": nn.functional.mse_loss}
    plan = rc.plan(model, X, rc.Budget(params="1.5x"), criterion, evaluator="density", **options)
    small, silenced = plan.apply(model), plan.mask(model)
    torch.testing.assert_close(small(X), silenced(X))
    rc.rectify(small, plan, X)
    assert small(X).isfinite().all()


def test_weights_statistics_and_holes_in_buffers_must_be_numbers() -> None:
    broken, holed, normed = Causal(), Causal(), nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3))
    with torch.no_grad():
        broken.out.weight[0, 0] = torch.inf
        holed.mask[0, 0] = torch.nan
        normed[1].running_var[3] = torch.inf
    for model, name, x in (
        (broken, "out.weight", X),
        (holed, "mask", X),
        (normed, "1.running_var", torch.randn(2, 3, 8, 8)),
    ):
        with pytest.raises(CriterionError, match=f"{name} holds values that are not finite"):
            rc.plan(model, x, rc.Budget(params="1.5x"))


class Positions(nn.Module):
    """A table of positions that no file holds, computed anew for every number of tokens (as ConViT does)."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(16, 32), nn.Linear(32, 16)
        self.register_buffer("table", torch.zeros(1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        if self.table.shape[0] != x.shape[1]:
            self.table = torch.arange(x.shape[1], dtype=x.dtype)[:, None].expand(-1, 16) / 10
        return self.down(self.up(x + self.table).relu())


def make_positions() -> nn.Module:
    return Positions()


def test_a_table_that_a_model_computes_may_have_another_size_when_a_plan_is_applied(tmp_path: Path) -> None:
    model = Positions()
    model(X)  # from here on the table has eight rows
    plan = rc.plan(model, X, rc.Budget(params="2x"))
    small = plan.apply(model)
    fresh = Positions()
    fresh.load_state_dict(model.state_dict())
    torch.testing.assert_close(plan.apply(fresh)(X), small(X))
    rc.save(small, tmp_path, plan=plan, source={"address": f"{__name__}:make_positions", "args": {}})
    torch.testing.assert_close(rc.load(tmp_path, allow_import=True)(X), small(X))
