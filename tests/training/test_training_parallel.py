"""Two processes under torchrun train one model: they agree to the bit, and come out where one process would."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from torch import distributed

from reconvene.errors import TrainingError
from reconvene.training import TrainConfig, read_log, train_model
from support.paths import ROOT, TESTS
from support.training_kills import CONFIG, EPOCHS, digits, net

pytestmark = pytest.mark.skipif(
    not distributed.is_available() or not distributed.is_gloo_available(), reason="this torch has no gloo"
)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    root = tmp_path_factory.mktemp("pair")
    paths = [str(ROOT / "src"), str(TESTS), *sys.path]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*command, TESTS / "support" / "training_pair.py", root],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return root, [json.loads((root / f"rank{rank}.json").read_text()) for rank in range(2)]


def test_both_processes_hold_the_same_model(pair: tuple[Path, list[dict[str, Any]]]) -> None:
    _, (first, second) = pair
    assert first == second


def test_an_interrupted_pair_ends_in_the_same_bytes(pair: tuple[Path, list[dict[str, Any]]]) -> None:
    _, (first, _) = pair
    assert first["resumed_at"] == 13
    assert first["parts"] == first["whole"]


def test_processes_that_see_different_folders_are_stopped(pair: tuple[Path, list[dict[str, Any]]]) -> None:
    _, (first, _) = pair
    assert first["apart"] == "the processes do not see the same checkpoint"


def test_two_processes_come_out_where_one_does(pair: tuple[Path, list[dict[str, Any]]], tmp_path: Path) -> None:
    _, (first, _) = pair
    alone = train_model(net(), digits(), epochs=EPOCHS, directory=tmp_path, config=CONFIG)
    assert first["count"] == alone.evaluation.count, "the test split is shared out, not repeated"
    assert first["loss"] == pytest.approx(alone.evaluation.loss, rel=0.1)
    assert first["train_loss"] == pytest.approx(alone.records[-1]["train_loss"], rel=0.1)
    assert first["accuracy"] == pytest.approx(alone.score, abs=0.1)


def test_one_log_is_written(pair: tuple[Path, list[dict[str, Any]]]) -> None:
    root, _ = pair
    start, *epochs = read_log(root / "whole")
    assert start["processes"] == 2
    assert [record["epoch"] for record in epochs] == list(range(1, EPOCHS + 1))
    assert [record["step"] for record in epochs] == [10, 20], "as many steps as one process: the batch is of both"


def test_a_batch_that_cannot_be_shared_out_is_refused() -> None:
    import torch

    with pytest.raises(TrainingError, match=r"batch_size 33 does not work .* 2 process"):
        TrainConfig(batch_size=33).settled(digits(), device=torch.device("cpu"), processes=2)
