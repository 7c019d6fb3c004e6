"""Run by test_training_resume.py in a process of its own: trains, gets killed with SIGKILL at many moments, trains on.

Torch is imported once; every training happens in a fork of this process, so that a kill costs nothing but itself. For
every scenario one JSON line goes to stdout: its name, how often it was killed, and the digest and log it ended with.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import safetensors.torch
import torch
from torch import nn

from reconvene.data import Dataset, load_data
from reconvene.training import TrainConfig, read_log, train_model
from reconvene.training import checkpoint as checkpoints
from reconvene.training.run import TrainingRun

EPOCHS = 2
CONFIG = TrainConfig(seed=3, batch_size=48, checkpoint_seconds=0)
TIMES = ("seconds", "samples_per_second")


def digits() -> Dataset:
    return load_data("digits", input_shape=(1, 8, 8), limit=480)


def net() -> nn.Module:
    """Convolutions, norm statistics and dropout: everything a checkpoint has to bring back."""
    torch.manual_seed(11)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 12, 3, stride=2),
        nn.BatchNorm2d(12),
        nn.ReLU(),
        nn.Dropout(0.2),
        nn.Flatten(),
        nn.Linear(12 * 9, 10),
    )


def untimed(directory: Path) -> list[dict[str, object]]:
    return [{key: value for key, value in record.items() if key not in TIMES} for record in read_log(directory)]


def train_here(directory: Path, dataset: Dataset) -> None:
    model = net()
    train_model(model, dataset, epochs=EPOCHS, directory=directory, config=CONFIG)
    (directory / "final.safetensors").write_bytes(safetensors.torch.save(model.state_dict()))


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def kill_in(owner: object, name: str, nth: int, *, after: bool) -> None:
    """Let this process be killed at the nth call of a function: before it, or after it has done its work."""
    original: Callable[..., object] = getattr(owner, name)
    calls = 0

    def counted(*args: object, **kwargs: object) -> object:
        nonlocal calls
        calls += 1
        if calls == nth and not after:
            die()
        result = original(*args, **kwargs)
        if calls == nth:
            die()
        return result

    setattr(owner, name, counted)


def in_fork(work: Callable[[], None], *, kill_after: float | None = None) -> bool:
    """Do ``work`` in a fork; True if it came to its end, False if it was killed."""
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        try:
            work()
        except BaseException as error:  # noqa: BLE001  # a fork must not return into its parent's code
            print(repr(error), file=sys.stderr)
            os._exit(1)
        os._exit(0)
    if kill_after is not None:
        time.sleep(kill_after)
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return False
    if os.WEXITSTATUS(status):
        raise SystemExit("training failed")
    return True


def report(name: str, kills: int, directory: Path) -> None:
    digest = hashlib.sha256((directory / "final.safetensors").read_bytes()).hexdigest()
    left = sorted(path.name for path in directory.iterdir())
    print(json.dumps({"name": name, "kills": kills, "sha256": digest, "log": untimed(directory), "files": left}))


def main(root: Path) -> None:
    torch.set_num_threads(1)
    dataset = digits()
    steps = EPOCHS * (len(dataset.train) // 48)
    in_fork(lambda: train_here(root / "whole", dataset))
    report("whole", 0, root / "whole")
    points: list[tuple[str, object, str, int, bool]] = [
        ("before the first step", TrainingRun, "_step", 1, False),
        ("in the first epoch", TrainingRun, "_step", steps // 4, True),
        ("in the last step", TrainingRun, "_step", steps, True),
        ("before a rename", os, "replace", 4, False),
        ("after a rename", os, "replace", 4, True),
        ("before the bytes are on the disk", os, "fsync", 9, False),
        ("between log and checkpoint", TrainingRun, "_save", steps // EPOCHS, False),
        ("after the log of the last epoch", TrainingRun, "_save", steps, False),
        ("after the last checkpoint", checkpoints, "write_atomic", steps, True),
    ]
    for name, owner, function, nth, after in points:
        directory = root / name.replace(" ", "-")

        def killed(where: tuple[object, str, int, bool] = (owner, function, nth, after), to: Path = directory) -> None:
            kill_in(*where[:3], after=where[3])
            train_here(to, dataset)

        kills = 1 - in_fork(killed)
        in_fork(lambda to=directory: train_here(to, dataset))
        report(name, kills, directory)
    directory, kills, patience = root / "again-and-again", 0, 0.02
    while not in_fork(lambda: train_here(directory, dataset), kill_after=patience):
        kills, patience = kills + 1, patience + 0.01
    report("again and again", kills, directory)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
