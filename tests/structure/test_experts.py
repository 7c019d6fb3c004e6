"""Hiera and mixtures of experts of transformers, whichever way experts run: pruned, and planned as users do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import reconvene as rc
from support.proof import error, prove, share_kept

transformers = pytest.importorskip("transformers")

TOKENS = torch.randint(0, 64, (2, 7), generator=torch.Generator().manual_seed(0))
SMALL = {
    "vocab_size": 64,
    "hidden_size": 16,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "use_cache": False,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "num_experts_per_tok": 2,
}


def _experts(family: str, way: str, **more: Any) -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(**SMALL, **more)
    config._experts_implementation = way
    return getattr(transformers, f"{family}Model")(config).eval(), TOKENS


def _hiera() -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    config = transformers.HieraConfig(
        image_size=[32, 32],
        embed_dim=16,
        depths=[1, 2, 1],
        num_heads=[1, 2, 4],
        num_query_pool=2,
        masked_unit_size=[4, 4],
        masked_unit_attention=[True, True, False],
    )
    return transformers.HieraModel(config).eval(), torch.randn(2, 3, 32, 32)


def _mixtral(way: str) -> tuple[nn.Module, torch.Tensor]:
    return _experts("Mixtral", way, num_local_experts=4)


def _gpt_oss(way: str) -> tuple[nn.Module, torch.Tensor]:
    rope = {"rope_type": "default", "rope_theta": 1e4}
    return _experts("GptOss", way, num_local_experts=4, head_dim=8, rope_parameters=rope)


def _qwen(way: str) -> tuple[nn.Module, torch.Tensor]:
    sizes = {"moe_intermediate_size": 64, "shared_expert_intermediate_size": 32}
    return _experts("Qwen2Moe", way, num_experts=4, **sizes)


NETS: dict[str, Callable[[], tuple[nn.Module, torch.Tensor]]] = {
    "hiera": _hiera,
    **{f"mixtral {way}": lambda way=way: _mixtral(way) for way in ("eager", "batched_mm", "grouped_mm")},
    **{f"gpt-oss {way}": lambda way=way: _gpt_oss(way) for way in ("eager", "batched_mm", "grouped_mm")},
    "qwen2-moe grouped_mm": lambda: _qwen("grouped_mm"),
}


@pytest.mark.parametrize("name", NETS)
def test_half_of_it_goes(name: str) -> None:
    model, inputs = NETS[name]()
    dtype = torch.float32 if "grouped" in name else torch.float64  # the kernel knows no double precision
    structure, _, small = prove(model, inputs, dtype=dtype)
    assert share_kept(small, model) < 0.6
    assert not structure.unknown
    assert not [note for note in structure.repairs if "reads values" not in note]  # as loops over experts do


@pytest.mark.parametrize("name", ["hiera", "mixtral grouped_mm", "gpt-oss grouped_mm"])
def test_it_is_planned_for_a_budget(name: str) -> None:
    model, inputs = NETS[name]()
    plan = rc.plan(model, inputs, rc.Budget(params=0.5), criterion="random")
    assert plan.costs["pruned"]["params"] <= 0.5 * plan.costs["dense"]["params"]
    with torch.no_grad():
        assert error(plan.apply(model)(inputs), plan.mask(model)(inputs)) < 1e-5


class Branching(nn.Module):
    """Projects only where its widths differ, as blocks of Hiera do: half of one width is the other."""

    def __init__(self, narrow: int, wide: int) -> None:
        super().__init__()
        self.narrow, self.wide = narrow, wide
        self.stem, self.proj, self.head = nn.Linear(5, narrow), nn.Linear(narrow, wide), nn.Linear(wide, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        if self.narrow != self.wide:
            x = self.proj(x).relu()
        return self.head(x.view(-1, self.wide))


def test_a_branch_on_two_widths_that_differ_goes_the_same_way_where_they_would_meet() -> None:
    structure, _, small = prove(Branching(8, 16), torch.randn(4, 5))
    assert sorted(group.width for group in structure.prunable) == [8, 16] and not structure.repairs
    assert small.wide == 8 != small.narrow
    _, _, small = prove(Branching(8, 20), torch.randn(4, 5))
    assert (small.wide, small.narrow) == (10, 8)  # where they do not meet, it stays as it was
