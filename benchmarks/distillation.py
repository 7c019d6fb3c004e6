"""Does a teacher help a pruned network? ResNet-20 at an eighth of its parameters on a part of CIFAR-10, arms in turn.

Every line of ``results/distillation.jsonl`` is one seed: test accuracy of the teacher and of the same pruned network,
from the same initialization and the same batches, trained in several ways. Lines are appended as seeds finish, and what
is there is not done again.
"""

from __future__ import annotations

import argparse
import copy
import json
import tempfile
from pathlib import Path

import torch
from rows import add_row, read_rows

import reconvene as rc
from reconvene.data import calibration, load_data
from reconvene.models import ModelSource
from reconvene.training import Distillation, TrainConfig, train_model

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "distillation.jsonl"
ARMS = {
    "labels": None,
    "scores, w 0.5": {"weight": 0.5},
    "scores, w 0.9": {"weight": 0.9},
    "scores, w 0.5, features 0.1": {"weight": 0.5, "features": 0.1},
    "features 0.1": {"weight": 0.0, "features": 0.1},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default=str(HERE.parents[1] / "shared" / "data" / "cifar10"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--limit", type=int, default=3000)
    parser.add_argument("--epochs", type=int, default=8)
    given = parser.parse_args()
    if not Path(given.data).is_dir():
        print(f"no CIFAR-10 at {given.data}: nothing is measured")
        return
    torch.set_num_threads(1)
    dataset = load_data(given.data, limit=given.limit)
    known = read_rows(RESULTS)
    asked = {"epochs": given.epochs, "data": str(dataset)}
    done = {row["seed"] for row in known if {name: row[name] for name in asked} == asked}
    for seed in sorted(set(range(given.seeds)) - done):
        config = TrainConfig(seed=seed)
        dense = ModelSource("resnet20", {"num_classes": 10}, (3, 32, 32), seed).build()
        batch = next(iter(calibration(dataset, 10, seed=seed)))[0]
        small = rc.prune(dense, batch, rc.Budget(params="8x"), seed=seed)
        accuracy = {}
        with tempfile.TemporaryDirectory() as folder:
            options = {"epochs": given.epochs, "config": config}
            accuracy["dense teacher"] = train_model(dense, dataset, directory=f"{folder}/dense", **options).score
            for number, (arm, lesson) in enumerate(ARMS.items()):
                student = copy.deepcopy(small)
                taught = None if lesson is None else Distillation(dense, **lesson, plan=small.reconvene_plan)
                result = train_model(student, dataset, directory=f"{folder}/{number}", distillation=taught, **options)
                accuracy[arm] = result.score
        row = {"seed": seed, **asked, "accuracy": accuracy}
        add_row(RESULTS, row)
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
