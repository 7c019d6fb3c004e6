"""What errors say of what cannot leave: how much of a cost, which reason keeps it, and in which layers."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import Tensor, nn

import reconvene as rc
from reconvene.costs.model import CostModel
from reconvene.errors import BudgetError, PinnedCost, StructureError
from reconvene.structure import Structure, analyse
from reconvene.structure.labels import Reason


class Mixed(nn.Module):
    """A softmax over channels keeps one part, an operator without a rule another, and the rest can be pruned."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4, bias=False)
        self.gates = nn.ModuleList(nn.Linear(4, 4, bias=False) for _ in range(3))
        self.wave = nn.Linear(4, 4, bias=False)
        self.up, self.down = nn.Linear(4, width, bias=False), nn.Linear(width, 4, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        for gate in self.gates:
            x = gate(x).softmax(-1)
        return self.down(self.up(torch.fft.fft(self.wave(x)).real).relu())


INPUTS = torch.randn(2, 4)


def pinned_of(structure: Structure, cost: str) -> PinnedCost:
    pinned = CostModel(structure).pinned(cost)
    assert pinned is not None
    return pinned


def test_parts_that_stay_are_counted_once_and_divided_by_reason() -> None:
    structure = analyse(Mixed(), INPUTS)
    assert [group.name for group in structure.prunable] == ["first", "up"]
    pinned = pinned_of(structure, "params")
    assert pinned.dense == sum(p.numel() for p in Mixed().parameters())
    assert pinned.amount == pytest.approx(sum(share.amount for share in pinned.shares))
    assert [share.amount for share in pinned.shares] == sorted((s.amount for s in pinned.shares), reverse=True)
    softmax = next(share for share in pinned.shares if share.reason == "_softmax needs the whole dimension")
    # Two gates between softmaxes stay whole, and so does the layer between the last one and the transform.
    assert softmax.amount == 2 * 16 and pinned.amount == 3 * 16
    assert pinned.shares[1].amount == 16 and "is a Fourier transform" in pinned.shares[1].reason
    assert len(pinned.shares) == 2  # not what merely reads what a softmax gives


@pytest.mark.parametrize("cost", ["params", "macs", "size"])
def test_what_stays_is_what_a_network_of_no_channels_would_cost(cost: str) -> None:
    structure = analyse(Mixed(), INPUTS)
    costs = CostModel(structure)
    none = costs.evaluate(cost, 0 * structure.widths)
    header = costs.dense["size"] - pinned_of(structure, "size").dense if cost == "size" else 0
    assert pinned_of(structure, cost).amount == pytest.approx(none - header)


def test_a_budget_below_the_floor_says_what_keeps_it_and_how_much() -> None:
    with pytest.raises(BudgetError, match="cannot leave") as caught:
        rc.plan(Mixed(64), INPUTS, rc.Budget(params="100x", peak_memory="1MiB"), criterion="random")
    error = caught.value
    assert set(error.pinned) == {"params"}  # the other limit can be kept
    pinned = error.pinned["params"]
    assert pinned.floor == error.floor["params"] > pinned.amount
    assert "of the floor" in str(error) and "_softmax needs the whole dimension" in str(error)


def test_a_model_of_which_nothing_can_leave_says_what_keeps_it() -> None:
    class Fixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return torch.fft.fft(self.layer(x)).real

    with pytest.raises(StructureError, match="nothing of this model can be pruned: 100 % of the parameters") as caught:
        rc.plan(Fixed(), INPUTS, rc.Budget(params=0.5), criterion="random")
    pinned = caught.value.pinned["params"]
    assert pinned.amount == pinned.dense == 20
    assert any("is a Fourier transform" in share.reason and share.layers for share in pinned.shares)
    assert "is a Fourier transform" in str(caught.value)


def test_one_kind_of_reason_in_many_layers_is_one_share() -> None:
    class Gates(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(8, 8), nn.Softmax(-1)) for _ in range(5))

        def forward(self, x: Tensor) -> Tensor:
            for block in self.blocks:
                x = block(x)
            return x

    pinned = pinned_of(analyse(Gates(), torch.randn(2, 8)), "params")
    softmax = next(share for share in pinned.shares if share.reason == "_softmax needs the whole dimension")
    assert softmax.layers == tuple(f"blocks.{n}.1" for n in range(5))
    assert "(in blocks.0.1 and 4 more)" in str(pinned)


def test_reasons_are_text_that_copies_keep_whole() -> None:
    reason = Reason("_softmax", "head", "needs the whole dimension")
    for other in (copy.deepcopy(reason), pickle.loads(pickle.dumps(reason))):
        assert (
            other == "_softmax in head needs the whole dimension" and other.kind == "_softmax needs the whole dimension"
        )
        assert other.layer == "head"


def test_words_are_short_where_shares_are_small() -> None:
    assert (
        str(PinnedCost("macs", 1000.0, 1.0, (), plural="multiply-accumulates"))
        == "under 1 % of the multiply-accumulates cannot leave"
    )
