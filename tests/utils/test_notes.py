"""Notes of a plan are sentences that say what they are about, in memory and in a file."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path

import pytest
import torch
from torch import nn

import reconvene as rc
from reconvene.errors import PlanError
from reconvene.utils.notes import Note


@pytest.fixture(scope="module")
def plan() -> rc.Plan:
    model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 8, 3)).to("meta")
    return rc.plan(model, torch.randn(1, 3, 8, 8, device="meta"), rc.Budget(params="2x"))


def subjects(plan: rc.Plan) -> list[str]:
    return [note.about for note in plan.notes]


def test_a_file_keeps_what_notes_are_about(plan: rc.Plan, tmp_path: Path) -> None:
    plan.save(tmp_path / "plan.json")
    assert "meta" in subjects(plan)
    assert subjects(rc.Plan.load(tmp_path / "plan.json")) == subjects(plan)
    assert subjects(copy.deepcopy(plan)) == subjects(pickle.loads(pickle.dumps(plan))) == subjects(plan)


def test_notes_of_earlier_releases_are_text_alone(plan: rc.Plan) -> None:
    read = rc.Plan.from_dict({**plan.to_dict(), "notes": ["conv in stem has no rule"]})
    assert read.notes == ["conv in stem has no rule"] and subjects(read) == [""]


def test_a_subject_of_a_later_release_is_kept(plan: rc.Plan) -> None:
    read = rc.Plan.from_dict({**plan.to_dict(), "notes": [{"about": "weather", "text": "it rains"}]})
    assert read.notes[0].to_dict() == {"about": "weather", "text": "it rains"}


@pytest.mark.parametrize("note", [3, {"about": "pinned"}, {"about": "pinned", "text": "a", "more": "b"}, ["a"]])
def test_what_is_no_note_is_an_error_that_names_it(plan: rc.Plan, note: object) -> None:
    with pytest.raises(PlanError, match=r"notes\.0"):
        rc.Plan.from_dict({**plan.to_dict(), "notes": [note]})


def test_a_note_is_its_text() -> None:
    assert Note("flip stays whole", "pinned") == "flip stays whole"
