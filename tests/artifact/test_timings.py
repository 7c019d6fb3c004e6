"""Seconds are beside an artifact, not in it: the same seed gives the same bytes. Older ones show theirs."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest
from torch import Tensor, nn

from reconvene import artifact, workflow
from reconvene.artifact import TIMINGS, Artifact
from reconvene.artifact.card import card
from reconvene.costs import Budget
from reconvene.data import Dataset, load_data
from reconvene.errors import ArtifactError
from reconvene.models import ModelSource
from reconvene.training import TrainConfig
from reconvene.workflow.report import collect
from support.signed_artifacts import change_manifest

pytest.importorskip("sklearn")
SOURCE = ModelSource(f"{__name__}:Net", {"width": 16}, (1, 8, 8))
OURS = {artifact.MANIFEST, artifact.PLAN, artifact.WEIGHTS}


class Net(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(1, width, 3), nn.Conv2d(width, width, 3)
        self.norm, self.head = nn.BatchNorm2d(width, momentum=0.001), nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(300 * self.second(self.first(x).relu())).relu().mean((2, 3)))


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load_data("digits", input_shape=(1, 8, 8), limit=200)


def make(folder: Path, dataset: Dataset) -> artifact.Training:
    pruning = workflow.Pruning(criterion="magnitude", round_to=1)
    workflow.prune_artifact(SOURCE, folder, budget=Budget(params="2x"), pruning=pruning, allow_import=True)
    return workflow.train(folder, dataset, epochs=1, config=TrainConfig(seed=3, batch_size=20), allow_import=True)


@pytest.fixture(scope="module")
def trained(digits: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("timings") / "a"
    make(folder, digits)
    return folder


def test_the_same_seed_gives_the_same_bytes(trained: Path, digits: Dataset, tmp_path: Path) -> None:
    """Pruned and trained, with norm statistics that are taken anew, which takes seconds of its own."""
    training = make(tmp_path / "b", digits)
    assert training.recalibration is not None and "statistics" in str(training)
    for name in sorted(OURS):
        assert (trained / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name
    assert {path.name for path in (tmp_path / "b").iterdir()} >= {*OURS, TIMINGS}


def test_timings_are_shown_only_on_request(trained: Path, digits: Dataset) -> None:
    stored = Artifact.open(trained)
    assert stored.training is not None and stored.training == stored.training.untimed()
    assert {"structure", "surgery", "rectify"} <= stored.timings.pruning.keys()
    training = stored.timed_training
    assert training is not None and training.recalibration is not None
    assert training.seconds and training.recalibration.seconds is not None
    again = workflow.train(trained, digits, epochs=1, config=TrainConfig(seed=3, batch_size=20), allow_import=True)
    assert again == training and f" in {training.seconds:.1f} s" in str(again)
    assert collect(trained).timings == stored.timings.pruning


def test_an_artifact_of_before_keeps_and_shows_its_seconds(trained: Path, tmp_path: Path) -> None:
    folder = tmp_path / "a"
    folder.mkdir()
    for name in OURS:
        (folder / name).write_bytes((trained / name).read_bytes())
    training = asdict(Artifact.open(trained).training)
    training |= {"seconds": 12.5, "recalibration": {**training["recalibration"], "seconds": 0.25}}
    change_manifest(folder, lambda data: data["measurements"].update(training=training))
    (folder / TIMINGS).write_text(json.dumps({"structure": 0.5, "surgery": 0.25}))
    stored = Artifact.open(folder)
    assert stored.timings.pruning == {"structure": 0.5, "surgery": 0.25}
    timed = stored.timed_training
    assert timed is not None and timed.recalibration is not None
    assert (timed.seconds, timed.recalibration.seconds) == (12.5, 0.25) and " in 12.5 s" in str(timed)
    assert collect(folder).timings == {"structure": 0.5, "surgery": 0.25}
    artifact.load(folder, allow_import=True)
    artifact.add_measurements(folder, {"mine": 1})
    assert Artifact.open(folder).measurements["training"]["seconds"] == 12.5


def test_without_timings_none_are_shown(trained: Path, tmp_path: Path) -> None:
    for name in OURS:
        (tmp_path / name).write_bytes((trained / name).read_bytes())
    timed = Artifact.open(tmp_path).timed_training
    assert timed is not None and timed.seconds is None and " s:" not in str(timed)
    assert "test accuracy" in card(Artifact.open(tmp_path), repo_id="me/net", license=None)


def test_a_new_artifact_does_not_take_the_seconds_of_the_old_one(trained: Path, tmp_path: Path) -> None:
    for path in trained.iterdir():
        if path.is_file():
            (tmp_path / path.name).write_bytes(path.read_bytes())
    artifact.save(SOURCE.build(allow_import=True), tmp_path, source=SOURCE)
    assert not (tmp_path / TIMINGS).exists()


@pytest.mark.parametrize("text", ["[]", "{", '{"pruning": 3}', '{"training": -1}', '{"structure": "long"}', "NaN"])
def test_damaged_timings_are_named(text: str, trained: Path, tmp_path: Path) -> None:
    for name in OURS:
        (tmp_path / name).write_bytes((trained / name).read_bytes())
    (tmp_path / TIMINGS).write_text(text)
    artifact.load(tmp_path, allow_import=True)
    with pytest.raises(ArtifactError, match=r"timings\.json"):
        _ = Artifact.open(tmp_path).timings
