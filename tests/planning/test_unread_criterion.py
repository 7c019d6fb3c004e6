"""A criterion that leaves no trace in the pruned network is not passed over in silence."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import reconvene as rc
from reconvene.models import MODELS
from reconvene.utils.progress import notes_to


def pruned(**options: Any) -> tuple[dict[str, torch.Tensor], list[str]]:
    """The state of a pruned network, and what was said of the criterion."""
    torch.manual_seed(0)
    notes: list[str] = []
    with notes_to(notes.append):
        small = rc.prune(MODELS["resnet8"](width=0.25), torch.zeros(1, 3, 32, 32), rc.Budget(params="2x"), **options)
    return small.state_dict(), [note for note in notes if "criterion" in note]


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


def test_criteria_that_end_in_one_network_say_so() -> None:
    plain, unsaid = pruned()
    assert not unsaid
    for criterion in ("magnitude", "random"):
        state, (note,) = pruned(criterion=criterion)
        assert same(state, plain)
        assert repr(criterion) in note and "fan_in" in note and "--evaluator density" in note


@pytest.mark.parametrize("options", [{"evaluator": "density"}, {"rectify": "keep"}], ids=str)
def test_criteria_that_make_a_difference_are_not_spoken_of(options: dict[str, str]) -> None:
    magnitude, random = (pruned(criterion=criterion, **options) for criterion in ("magnitude", "random"))
    assert not magnitude[1] and not random[1]
    shapes = [[tensor.shape for tensor in state.values()] for state, _ in (magnitude, random)]
    assert shapes[0] != shapes[1] or not same(magnitude[0], random[0])


def test_a_plan_alone_keeps_the_channels_of_its_criterion() -> None:
    torch.manual_seed(0)
    model = MODELS["resnet8"](width=0.25)
    notes: list[str] = []
    with notes_to(notes.append):
        plans = [
            rc.plan(model, torch.zeros(1, 3, 32, 32), rc.Budget(params="2x"), criterion=criterion)
            for criterion in ("magnitude", "random")
        ]
    assert plans[0].widths.tolist() == plans[1].widths.tolist()
    assert not notes and [row.keep for row in plans[0].rows] != [row.keep for row in plans[1].rows]
