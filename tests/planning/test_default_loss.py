"""Everything that takes cross entropy by default says which loss is missing where the output is no tensor of scores."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import reconvene as rc
from reconvene.costs import Budget
from reconvene.errors import CriterionError

IMAGES, LABELS = torch.randn(8, 3, 8, 8), torch.arange(8) % 4
DATA = [(IMAGES, LABELS)]


class TwoHeads(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Hardswish(), nn.Conv2d(8, 8, 3))
        self.first, self.second = nn.Linear(8, 4), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        features = self.body(x).mean((2, 3))
        return self.first(features), self.second(features)


def first_head(output: Any, target: Any) -> Tensor:
    return F.cross_entropy(output[0], target)


USERS: dict[str, Callable[..., Any]] = {
    "criterion 'taylor'": lambda net, **options: rc.plan(
        net, IMAGES[:1], Budget(params=0.7), criterion="taylor", trained=True, data=DATA, **options
    ),
    "replace": lambda net, **options: rc.replace(net, IMAGES[:1], allow=["relu"], data=DATA, **options),
    "search": lambda net, **options: rc.search(
        net, IMAGES[:1], Budget(size=0.3), bits=(0, 4, 8), train=DATA, epochs=3, warmup=1, **options
    ),
    "prune_and_regrow": lambda net, **options: rc.prune_and_regrow(
        net, IMAGES[:1], Budget(params=0.7), DATA, epochs=1, **options
    ),
}


@pytest.mark.parametrize("user", USERS)
def test_outputs_without_scores_need_a_loss(user: str) -> None:
    with pytest.raises(CriterionError, match=rf"^{user}: the model returns a tuple, .*Pass loss="):
        USERS[user](TwoHeads())
    assert USERS[user](TwoHeads(), loss=first_head) is not None


@pytest.mark.parametrize("user", [user for user in USERS if user != "prune_and_regrow"])
def test_data_without_targets_need_a_loss(user: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "DATA", [(IMAGES, None)])
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Hardswish(), nn.Conv2d(8, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with pytest.raises(CriterionError, match=rf"^{user}: the data has no targets, .* or loss="):
        USERS[user](net)
