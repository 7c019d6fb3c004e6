"""What is not ours in a folder stays, and what is ours comes back where a replacement was not finished."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import reconvene as rc
from reconvene import artifact
from reconvene.errors import ArtifactError, FleetError, TrainingError
from reconvene.fleet.landing import require_own
from reconvene.models import ModelSource, resolve_address
from reconvene.training.checkpoint import CHECKPOINT_NAME
from reconvene.utils.locks import alone_in
from reconvene.workflow import grow
from reconvene.workflow.grow import train_growing
from reconvene.workflow.iterative import STEPS, _Run
from reconvene.workflow.prune import prune_artifact, require_replaceable, set_aside

SOURCE: ModelSource = resolve_address("resnet20", {"width": 0.25})
BUDGET = rc.Budget(params="2x")


def saved(folder: Path, **options: bool) -> Path:
    rc.save(SOURCE.build(), folder, source=SOURCE, **options)
    return folder


def test_a_file_beside_which_an_artifact_is_made_stays(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"the user's own")
    (tmp_path / "report.html").write_bytes(b"the user's own")
    prune_artifact(SOURCE, tmp_path, budget=BUDGET)
    assert (tmp_path / "model.onnx").read_bytes() == b"the user's own"
    assert (tmp_path / artifact.MANIFEST).exists()


def test_a_replacement_that_was_killed_is_undone_by_the_next_call(tmp_path: Path) -> None:
    folder = saved(tmp_path / "a")
    (folder / CHECKPOINT_NAME).write_bytes(b"hours of work")
    aside = set_aside(folder)
    aside.__enter__()
    assert not (folder / CHECKPOINT_NAME).exists()  # and here the process is killed
    require_replaceable(folder, overwrite=True)
    assert (folder / CHECKPOINT_NAME).read_bytes() == b"hours of work"
    assert not list(folder.glob(".replaced"))


def test_trained_weights_of_ones_own_are_not_written_over(tmp_path: Path) -> None:
    dense = saved(tmp_path / "dense", trained=True)
    with pytest.raises(ArtifactError, match="holds a model that was trained"):
        prune_artifact(SOURCE, dense, budget=BUDGET)


def test_growing_keeps_trained_weights_of_ones_own_and_refuses_a_cut_network(tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    from reconvene.data import load_data

    dense, data = saved(tmp_path / "dense", trained=True), load_data("digits", input_shape=(3, 32, 32), limit=64)
    before = (dense / artifact.WEIGHTS).read_bytes()
    train_growing(dense, data, epochs=1, budget=BUDGET)
    assert (dense / "dense" / artifact.WEIGHTS).read_bytes() == before
    cut = rc.prune(SOURCE.build(), torch.randn(1, 3, 32, 32), BUDGET, trained=True)
    rc.save(cut, tmp_path / "cut", source=SOURCE)
    with pytest.raises(TrainingError, match="pruned with its trained weights"):
        train_growing(tmp_path / "cut", data, epochs=1)


def test_a_folder_called_steps_that_is_not_ours_is_not_removed(tmp_path: Path) -> None:
    (tmp_path / STEPS).mkdir()
    (tmp_path / STEPS / "notes.txt").write_text("the user's own")
    run = _Run.__new__(_Run)
    object.__setattr__(run, "folder", tmp_path)
    with pytest.raises(ArtifactError, match=r"holds notes\.txt, which no pruning in steps wrote"):
        run._require_own_steps()


def test_a_fleet_writes_over_results_of_fleets_only(tmp_path: Path) -> None:
    require_own(tmp_path / "not there")
    (tmp_path / "phone").mkdir()
    require_own(tmp_path / "phone")
    (tmp_path / "phone" / "contract.pdf").write_bytes(b"the user's own")
    with pytest.raises(FleetError, match="was not made by a fleet"):
        require_own(tmp_path / "phone")


def test_the_folder_is_held_until_the_result_is_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two seeds that end together would else put the manifest of one over the weights of the other."""
    pytest.importorskip("sklearn")
    from reconvene.data import load_data

    refused: list[str] = []

    def keep(folder: Path, *_: Any, **__: Any) -> None:
        with (
            pytest.raises(TrainingError, match="another process is at work") as caught,
            alone_in(folder, error=TrainingError),
        ):
            pass
        refused.append(str(caught.value))

    monkeypatch.setattr(grow, "keep_trained", keep)
    data = load_data("digits", input_shape=(3, 32, 32), limit=64)
    train_growing(saved(tmp_path / "dense"), data, epochs=1, budget=BUDGET)
    assert len(refused) == 1
