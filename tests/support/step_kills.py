"""Run by test_iterative_resume.py in a process of its own: prunes in steps, gets killed with SIGKILL, goes on.

As in ``training_kills`` every attempt is a fork of this process. For every scenario one JSON line goes to stdout: its
name, how often it was killed, and the digest of every file that it ended with.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

import reconvene as rc
from reconvene.costs import Budget
from reconvene.data import Dataset
from reconvene.models import ModelSource
from reconvene.training import TrainConfig
from reconvene.training.run import TrainingRun
from reconvene.workflow import Pruning, Tuned, prune_in_steps
from reconvene.workflow import iterative as steps_on_disk
from support.training_kills import digits, in_fork, kill_in

SOURCE = ModelSource("support.step_kills:net", {}, (1, 8, 8))
TIMES = ("timings.json", "train.jsonl")


def net() -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU()),
        *(nn.Conv2d(16, 24, 3, stride=2), nn.BatchNorm2d(24), nn.ReLU()),
        nn.Flatten(),
        nn.Linear(24 * 9, 10),
    )


def prune_here(folder: Path, dense: Path, dataset: Dataset) -> None:
    config = TrainConfig(seed=1, batch_size=96, lr=0.05, tail=0.5, checkpoint_seconds=0)
    prune_in_steps(
        SOURCE,
        folder,
        budget=Budget(params="4x"),
        tuned=Tuned(steps=2, epochs=1, config=config),
        dataset=dataset,
        pruning=Pruning(criterion="taylor", evaluator="removed_loss", rectify="reconstruct", trained=True),
        base=dense,
        allow_import=True,
    )


def report(name: str, kills: int, folder: Path) -> None:
    files = {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in TIMES
    }
    print(json.dumps({"name": name, "kills": kills, "files": files}))


def main(root: Path, kills_wanted: int) -> None:
    torch.set_num_threads(1)
    dataset = digits()
    dense = root / "dense"
    torch.manual_seed(5)
    rc.save(net(), dense, source=SOURCE)
    in_fork(lambda: prune_here(root / "whole", dense, dataset))
    report("whole", 0, root / "whole")
    # While the second step is tuned, and between the artifact and its dense network.
    points: list[tuple[object, str, int]] = [(TrainingRun, "_step", 7), (steps_on_disk, "commit_files", 1)]
    folder, kills = root / "killed", 0
    for owner, function, nth in points:

        def killed(point: tuple[object, str, int] = (owner, function, nth)) -> None:
            kill_in(*point, after=True)
            prune_here(folder, dense, dataset)

        kills += 1 - in_fork(killed)
    in_fork(lambda: prune_here(folder, dense, dataset))
    report("killed", kills, folder)
    kills, number, patience = 0, 0, 0.05
    while kills < kills_wanted:
        folder, before = root / f"again-and-again-{number}", kills
        work: Callable[[], None] = lambda to=folder: prune_here(to, dense, dataset)  # noqa: E731
        while not in_fork(work, kill_after=patience):
            kills, patience = kills + 1, patience + 0.05
        report("again and again", kills - before, folder)
        number, patience = number + 1, 0.05


if __name__ == "__main__":
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    main(Path(sys.argv[1]), int(sys.argv[2]))
