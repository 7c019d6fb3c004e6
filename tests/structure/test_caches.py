"""Values that code looks at while it runs: masks, token ids, tables in caches."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor, nn

from reconvene.structure import analyse
from support.proof import prove


@lru_cache(maxsize=8)
def _table(size: int) -> Tensor:
    """A table filled in place, as relative positions often are."""
    table = torch.zeros(size, size)
    table[1:, 1:] = torch.arange((size - 1) ** 2).reshape(size - 1, size - 1)
    return table


class Positions(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(6, 16), nn.Linear(16, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.body(x))) + _table(x.shape[1]).to(x.dtype)[:, :2]


def test_a_cached_table_holds_its_values_after_the_analysis() -> None:
    _table.cache_clear()
    structure = analyse(Positions(), torch.randn(2, 5, 6))
    assert [g.width for g in structure.prunable] == [16]
    table = _table(5)
    assert not table.is_meta and table[1:, 1:].flatten().tolist() == list(range(16))
    prove(Positions(), torch.randn(2, 5, 6))


class LooksAtIds(nn.Module):
    """Branches on a mask made from token ids."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.body, self.head = nn.Embedding(10, 16), nn.Linear(16, 16), nn.Linear(16, 2)

    def forward(self, ids: Tensor) -> Tensor:
        mask = ids.ne(0)
        x = self.body(self.embed(ids))
        if not mask.all():
            x = x * mask[..., None]
        return self.head(x[:, : int(mask.sum(1).max().item())])


def test_code_may_look_at_token_ids() -> None:
    structure, _, _ = prove(LooksAtIds(), torch.tensor([[1, 2, 3, 0], [4, 5, 0, 0]]))
    assert structure.recording.device == "meta" and not structure.repairs
    assert [g.width for g in structure.prunable] == [16, 16]


class Boxes(nn.Module):
    """How many rows leave depends on values, as in detectors."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.score, self.head = nn.Linear(6, 16), nn.Linear(16, 1), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.body(x))
        score = self.score(x).squeeze(-1)
        best = score >= score.mean()
        return self.head(x[best.nonzero().squeeze(1)])


def test_a_model_that_needs_values_is_recorded_on_meta_with_the_answers_of_a_real_run() -> None:
    torch.manual_seed(0)
    structure, _, small = prove(Boxes(), torch.randn(20, 6))
    assert structure.recording.device == "meta" and "reads values (nonzero" in structure.repairs[0]
    assert [g.width for g in structure.prunable] == [16] and small.body.out_features == 8
