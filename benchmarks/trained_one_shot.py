"""What is left of a trained network's accuracy right after the cut, without fine-tuning: criteria and repairs in turn.

Every line of ``results/trained_one_shot.jsonl`` is one seed: ResNet-20, trained on digits or on CIFAR-10, cut once for
each budget on MACs and each criterion, and repaired in each way from training images. Lines are appended as seeds
finish, and what is there is not done again.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import torch
from rows import add_row, read_rows
from torch import Tensor, nn

import reconvene as rc
from reconvene.data import calibration, load_data
from reconvene.models import ModelSource
from reconvene.training import TrainConfig, train_model

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "trained_one_shot.jsonl"
BUDGETS = ("2x", "4x")
CRITERIA = ("random", "l2", "group_l2", "fpgm", "lamp", "taylor")
WAYS = ("keep", "recalibrate", "reconstruct")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="digits", help="digits, or a folder with CIFAR-10")
    parser.add_argument("--side", type=int, default=16, help="pixels of a side")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--limit", type=int, default=None)
    parser.add_argument("--epochs", type=int, default=8)
    given = parser.parse_args()
    if given.data != "digits" and not Path(given.data).is_dir():
        print(f"no data at {given.data}: nothing is measured")
        return
    torch.set_num_threads(1)
    shape = (3, given.side, given.side)
    dataset = load_data(given.data, limit=given.limit, input_shape=shape)
    known = read_rows(RESULTS)
    asked = {"epochs": given.epochs, "data": str(dataset), "side": given.side}
    done = {row["seed"] for row in known if {name: row[name] for name in asked} == asked}
    for seed in sorted(set(range(given.seeds)) - done):
        dense = ModelSource("resnet20", {"num_classes": 10}, shape, seed).build()
        with tempfile.TemporaryDirectory() as folder:
            accuracy = train_model(
                dense, dataset, directory=folder, epochs=given.epochs, config=TrainConfig(seed=seed)
            ).score
        fewest = int(dataset.train.targets.bincount().min())
        data = list(calibration(dataset, min(2000, fewest * len(dataset.classes)), seed=seed))
        test = dataset.normalise(dataset.test.images), dataset.test.targets
        arms = [arm for budget in BUDGETS for arm in cut(dense, data, test, budget, seed)]
        row = {"seed": seed, **asked, "dense": accuracy, "arms": arms}
        add_row(RESULTS, row)
        print(json.dumps(row), flush=True)


def cut(
    dense: nn.Module, data: list[tuple[Tensor, Tensor]], test: tuple[Tensor, Tensor], budget: str, seed: int
) -> list[dict[str, object]]:
    """Every criterion at one budget: accuracy after every repair, and the seconds that each took."""
    example, arms = data[0][0][:2], []
    for criterion in CRITERIA:
        start = time.perf_counter()
        plan = rc.plan(dense, example, rc.Budget(macs=budget), criterion, data, seed, trained=True)
        arm: dict[str, object] = {"criterion": criterion, "macs": budget, "plan": time.perf_counter() - start}
        for how in WAYS:
            start, small = time.perf_counter(), plan.apply(dense)
            rc.rectify(small, plan, example, how, model=dense, data=data)
            arm[how] = {"seconds": time.perf_counter() - start, "accuracy": right(small, test)}
        arms.append(arm)
    return arms


def right(model: nn.Module, test: tuple[Tensor, Tensor]) -> float:
    """Share of test images that are classified correctly."""
    model.eval()
    with torch.no_grad():
        hits = [model(x).argmax(1) == y for x, y in zip(*(part.split(500) for part in test), strict=True)]
    return float(torch.cat(hits).float().mean())


if __name__ == "__main__":
    main()
