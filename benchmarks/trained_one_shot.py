"""What is left of a trained network's accuracy right after the cut, without fine-tuning: criteria and repairs in turn.

Every line of ``results/trained_one_shot.jsonl`` is one seed: a network trained on digits or on CIFAR-10, cut once for
each budget on MACs and each criterion, and repaired in each way from training images; and the same network cut by the
criteria of Torch-Pruning (``--rivals``), whose norms are recalibrated from the same images. Lines are appended as seeds
finish, and what is there is not done again.

    python benchmarks/trained_one_shot.py --data cifar10/ --side 32 --limit 10000 --epochs 15 --rivals
"""

from __future__ import annotations

import argparse
import copy
import importlib
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from rows import add_row, read_rows
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

import reconvene as rc
from reconvene.data import calibration, load_data
from reconvene.deploy import measure
from reconvene.models import ModelSource
from reconvene.training import TrainConfig, train_model

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "trained_one_shot.jsonl"
BUDGETS = ("2x", "4x")
CRITERIA = ("random", "l2", "group_l2", "fpgm", "lamp", "taylor")
WAYS = ("keep", "recalibrate", "reconstruct")
RIVALS = ("GroupMagnitude", "GroupTaylor", "GroupHessian", "LAMP", "FPGM", "BNScale", "Random")
"""Importances of Torch-Pruning; each ranks all layers together, as its benchmarks do."""
HALVINGS = 10
USUAL = {"model": "resnet20", "width": 1.0, "rivals": False}
"""Of rows that were measured before there was a choice."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="digits", help="digits, or a folder with CIFAR-10")
    parser.add_argument("--side", type=int, default=16, help="pixels of a side")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--limit", type=int, default=None)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--model", default="resnet20")
    parser.add_argument("--width", type=float, default=1.0)
    parser.add_argument("--rivals", action="store_true", help="also Torch-Pruning's criteria (extra: bench)")
    given = parser.parse_args()
    if given.data != "digits" and not Path(given.data).is_dir():
        print(f"no data at {given.data}: nothing is measured")
        return
    torch.set_num_threads(1)
    shape = (3, given.side, given.side)
    dataset = load_data(given.data, limit=given.limit, input_shape=shape)
    known = read_rows(RESULTS)
    asked = {"epochs": given.epochs, "data": str(dataset), "side": given.side, "rivals": given.rivals}
    asked |= {"model": given.model, "width": given.width}
    done = {row["seed"] for row in known if {name: row.get(name, USUAL.get(name)) for name in asked} == asked}
    arguments = {"num_classes": 10} | ({"width": given.width} if given.width != 1.0 else {})
    for seed in sorted(set(range(given.seeds)) - done):
        dense = ModelSource(given.model, arguments, shape, seed).build()
        with tempfile.TemporaryDirectory() as folder:
            accuracy = train_model(
                dense, dataset, directory=folder, epochs=given.epochs, config=TrainConfig(seed=seed)
            ).score
        fewest = int(dataset.train.targets.bincount().min())
        data = list(calibration(dataset, min(2000, fewest * len(dataset.classes)), seed=seed))
        test = dataset.normalise(dataset.test.images), dataset.test.targets
        arms = [arm for budget in BUDGETS for arm in cut(dense, data, test, budget, seed)]
        if given.rivals:
            arms += [arm for budget in BUDGETS for arm in rivals(dense, data, test, budget, seed)]
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


def rivals(
    dense: nn.Module, data: list[tuple[Tensor, Tensor]], test: tuple[Tensor, Tensor], budget: str, seed: int
) -> list[dict[str, object]]:
    """Torch-Pruning's criteria at one budget: accuracy as cut, and with the norms' statistics taken again."""
    example, arms = data[0][0][:2], []
    limit = measure(dense, example, latency=False).macs / float(budget.removesuffix("x"))
    for criterion in RIVALS:
        torch.manual_seed(seed)
        start = time.perf_counter()
        small, ratio = largest_within(dense, data, criterion, limit)
        arm: dict[str, object] = {"criterion": f"Torch-Pruning {criterion}", "macs": budget, "ratio": ratio}
        arm["plan"] = time.perf_counter() - start
        arm["keep"] = {"seconds": 0.0, "accuracy": right(small, test)}
        start = time.perf_counter()
        update_bn([images for images, _ in data], small)
        arm["recalibrate"] = {"seconds": time.perf_counter() - start, "accuracy": right(small, test)}
        arms.append(arm)
    return arms


def largest_within(
    dense: nn.Module, data: list[tuple[Tensor, Tensor]], criterion: str, limit: float
) -> tuple[nn.Module, float]:
    """The largest network within so many MACs that a bisection of its one ratio meets, and that ratio."""
    low, high, best = 0.0, 1.0, (dense, 0.0)
    for _ in range(HALVINGS):
        ratio = (low + high) / 2
        small = cut_by_torch_pruning(dense, data, criterion, ratio)
        if measure(small, data[0][0][:2], latency=False).macs <= limit:
            best, high = (small, ratio), ratio
        else:
            low = ratio
    return best


def cut_by_torch_pruning(
    dense: nn.Module, data: list[tuple[Tensor, Tensor]], criterion: str, ratio: float
) -> nn.Module:
    """A copy of the network, cut once by one criterion at one global ratio."""
    package = importlib.import_module("torch_pruning")
    model = copy.deepcopy(dense).eval()
    importance = getattr(package.importance, f"{criterion}Importance")()
    last = [module for module in model.modules() if isinstance(module, nn.Linear)][-1:]  # it would cut the classes
    pruner = package.pruner.BasePruner(
        model,
        data[0][0][:2],
        importance=importance,
        global_pruning=True,
        pruning_ratio=ratio,
        max_pruning_ratio=0.95,
        ignored_layers=last,
    )
    if criterion in ("GroupTaylor", "GroupHessian"):
        slopes(model, data, importance if criterion == "GroupHessian" else None)
    pruner.step()
    model.zero_grad()
    return model


def slopes(model: nn.Module, data: list[tuple[Tensor, Tensor]], hessian: Any) -> None:
    """Gradients of the loss on one batch, as Torch-Pruning's examples take them; one by one for the Hessian."""
    images, targets = data[0]
    losses = nn.functional.cross_entropy(model(images), targets, reduction="none" if hessian is not None else "mean")
    if hessian is None:
        losses.backward()
        return
    for loss in losses:
        model.zero_grad()
        loss.backward(retain_graph=True)
        hessian.accumulate_grad(model)


def right(model: nn.Module, test: tuple[Tensor, Tensor]) -> float:
    """Share of test images that are classified correctly."""
    model.eval()
    with torch.no_grad():
        hits = [model(x).argmax(1) == y for x, y in zip(*(part.split(500) for part in test), strict=True)]
    return float(torch.cat(hits).float().mean())


if __name__ == "__main__":
    main()
