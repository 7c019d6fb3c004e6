r"""What is left of a trained network's accuracy right after the cut, without fine-tuning: criteria and repairs in turn.

Every line of ``results/trained_one_shot.jsonl`` is one seed: a network trained on digits or on CIFAR-10, cut once for
each budget on MACs and each criterion, and repaired in each way from training images; and the same network cut by the
criteria of Torch-Pruning (``--rivals``), whose norms are recalibrated from the same images. Lines are appended as seeds
finish, and what is there is not done again.

    python benchmarks/trained_one_shot.py --data cifar10/ --side 32 --limit 10000 --judged 3000 --epochs 9 --rivals \
        --tune 3

``--tune`` goes on training, by the end of the schedule again and without a teacher: of each budget our default
(``taylor``, reconstructed), the criterion of Torch-Pruning that was best as repaired, and beside them the widths of
ours drawn anew: for as many epochs as the tuning, and for as many as the dense network and the tuning together.
"""

from __future__ import annotations

import argparse
import copy
import importlib
import json
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rows import add_row, read_rows
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

import reconvene as rc
from reconvene.data import Dataset, calibration, load_data
from reconvene.deploy import measure
from reconvene.experiments.torch_pruning import cut_copy, largest_that_fits
from reconvene.models import ModelSource
from reconvene.training import TrainConfig, train_model

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "trained_one_shot.jsonl"
BUDGETS = ("2x", "4x")
CRITERIA = ("random", "l2", "group_l2", "fpgm", "lamp", "taylor")
WAYS = ("keep", "recalibrate", "reconstruct")
OURS = ("taylor", "reconstruct")
"""What is tuned: the default of ``rc.prune(trained=True, data=...)``."""
RIVALS = ("GroupMagnitude", "GroupTaylor", "GroupHessian", "LAMP", "FPGM", "BNScale", "Random")
"""Importances of Torch-Pruning; each ranks all layers together, as its benchmarks do."""
USUAL = {"model": "resnet20", "width": 1.0, "rivals": False, "tune": 0, "judged": None}
"""Of rows that were measured before there was a choice."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="digits", help="digits, or a folder with CIFAR-10")
    parser.add_argument("--side", type=int, default=16, help="pixels of a side")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--limit", type=int, default=None)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--model", default="resnet20")
    parser.add_argument("--width", type=float, default=1.0)
    parser.add_argument("--rivals", action="store_true", help="also Torch-Pruning's criteria (extra: bench)")
    parser.add_argument(
        "--tune", type=int, default=0, help="epochs of tuning; 0: only what is left right after the cut"
    )
    parser.add_argument("--compile", action="store_true", help="compile the networks that train from the beginning")
    parser.add_argument("--judged", type=int, default=None, help="test images that cut networks are judged on")
    given = parser.parse_args()
    if given.data != "digits" and not Path(given.data).is_dir():
        print(f"no data at {given.data}: nothing is measured")
        return
    torch.set_num_threads(1)
    shape = (3, given.side, given.side)
    dataset = load_data(given.data, limit=given.limit, input_shape=shape)
    known = read_rows(RESULTS)
    asked = {"epochs": given.epochs, "data": str(dataset), "side": given.side, "rivals": given.rivals}
    asked |= {"model": given.model, "width": given.width, "tune": given.tune, "judged": given.judged}
    done = {row["seed"] for row in known if {name: row.get(name, USUAL.get(name)) for name in asked} == asked}
    arguments = {"num_classes": 10} | ({"width": given.width} if given.width != 1.0 else {})
    for seed in sorted(set(range(given.seeds)) - done):
        dense = ModelSource(given.model, arguments, shape, seed).build()
        accuracy = trained(dense, dataset, given.epochs, TrainConfig(seed=seed, compile=given.compile))
        fewest = int(dataset.train.targets.bincount().min())
        data = list(calibration(dataset, min(2000, fewest * len(dataset.classes)), seed=seed))
        test = dataset.normalise(dataset.test.images[: given.judged]), dataset.test.targets[: given.judged]
        at, arms, cuts = Trained(dense, data, test, seed), list[dict[str, Any]](), list[Cut]()
        for way in (cut, rivals) if given.rivals else (cut,):
            for budget in BUDGETS:
                done_arms, kept = way(at, budget)
                arms, cuts = arms + done_arms, [*cuts, kept]
        if given.tune:
            arms += tune(cuts, dataset, given, seed)
        row = {"seed": seed, **asked, "dense": accuracy, "arms": arms}
        add_row(RESULTS, row)
        print(json.dumps(row), flush=True)


@dataclass(frozen=True)
class Trained:
    """A trained network, images to repair from, images to judge on, and its seed."""

    dense: nn.Module
    data: list[tuple[Tensor, Tensor]]
    test: tuple[Tensor, Tensor]
    seed: int


@dataclass(frozen=True)
class Cut:
    """The arm of a budget that is tuned, its network, and where it is ours the plan."""

    arm: dict[str, Any]
    network: nn.Module
    plan: rc.Plan | None = None


def trained(network: nn.Module, dataset: Dataset, epochs: int, config: TrainConfig) -> float:
    """Train a network in place; returns the accuracy on the test images."""
    with tempfile.TemporaryDirectory() as folder:
        return train_model(network, dataset, directory=folder, epochs=epochs, config=config).score


def tune(cuts: list[Cut], dataset: Dataset, given: argparse.Namespace, seed: int) -> list[dict[str, Any]]:
    """Tune cut networks, whose arms learn their accuracy; returns the arms of our widths drawn anew."""
    scratch, epochs, tuning = [], given.epochs, given.tune
    for made in cuts:
        made.arm["tuned"] = trained(made.network, dataset, tuning, TrainConfig(seed=seed, tail=tuning / epochs))
        if made.plan is None:
            continue
        for length in (tuning, epochs + tuning):
            fresh = copy.deepcopy(made.network)
            rc.rectify(fresh, made.plan, dataset.normalise(dataset.train.images[:2]), "reinit", seed=seed)
            accuracy = trained(fresh, dataset, length, TrainConfig(seed=seed, compile=given.compile))
            name = f"widths of {made.arm['criterion']}, from scratch, {length} epochs"
            scratch.append({"criterion": name, "macs": made.arm["macs"], "tuned": accuracy})
    return scratch


def cut(at: Trained, budget: str) -> tuple[list[dict[str, Any]], Cut]:
    """Every criterion at one budget: accuracy after every repair, and the seconds that each took; the default's cut."""
    dense, data, test, seed = at.dense, at.data, at.test, at.seed
    example, arms, kept = data[0][0][:2], [], None
    for criterion in CRITERIA:
        start = time.perf_counter()
        plan = rc.plan(dense, example, rc.Budget(macs=budget), criterion, data, seed, trained=True)
        arm: dict[str, Any] = {"criterion": criterion, "macs": budget, "plan": time.perf_counter() - start}
        for how in WAYS:
            start, small = time.perf_counter(), plan.apply(dense)
            rc.rectify(small, plan, example, how, model=dense, data=data)
            arm[how] = {"seconds": time.perf_counter() - start, "accuracy": right(small, test)}
            if (criterion, how) == OURS:
                kept = Cut(arm, small, plan)
        arms.append(arm)
    assert kept is not None, "it is one of them"
    return arms, kept


def rivals(at: Trained, budget: str) -> tuple[list[dict[str, Any]], Cut]:
    """Torch-Pruning's criteria at one budget: accuracy as cut, and with the norms' statistics taken again; the best."""
    dense, data, test, seed = at.dense, at.data, at.test, at.seed
    importances = importlib.import_module("torch_pruning").importance
    example, cuts = data[0][0][:2], list[Cut]()
    limit = measure(dense, example, latency=False).macs / float(budget.removesuffix("x"))
    for criterion in RIVALS:
        torch.manual_seed(seed)
        start = time.perf_counter()
        slopes = slopes_of(dense, data[0], criterion)

        def cut_at(ratio: float, criterion: str = criterion, slopes: list[Tensor | None] = slopes) -> nn.Module:
            importance = getattr(importances, f"{criterion}Importance")()
            return cut_copy(dense, example, importance, ratio, prepare=lambda model: give(model, slopes, importance))

        best = largest_that_fits(cut_at, lambda small: measure(small, example, latency=False).macs <= limit)
        assert best is not None, "a ratio of one leaves next to nothing"
        small, ratio = best
        small.zero_grad()
        arm: dict[str, Any] = {"criterion": f"Torch-Pruning {criterion}", "macs": budget, "ratio": ratio}
        arm["plan"] = time.perf_counter() - start
        arm["keep"] = {"seconds": 0.0, "accuracy": right(small, test)}
        start = time.perf_counter()
        update_bn([images for images, _ in data], small)
        arm["recalibrate"] = {"seconds": time.perf_counter() - start, "accuracy": right(small, test)}
        cuts.append(Cut(arm, small))
    return [made.arm for made in cuts], max(cuts, key=lambda made: made.arm["recalibrate"]["accuracy"])


def slopes_of(dense: nn.Module, batch: tuple[Tensor, Tensor], criterion: str) -> list[Tensor | None]:
    """Gradients of the loss on one batch, as Torch-Pruning's examples take them, for every parameter.

    For the Hessian they are the roots of the sums of squares over single examples: Torch-Pruning 1.6.0 means to add
    these up, and keeps those of the last example.
    """
    parameters = list(dense.parameters())
    if criterion not in ("GroupTaylor", "GroupHessian"):
        return [None] * len(parameters)
    images, targets = batch
    dense.eval()
    losses = nn.functional.cross_entropy(dense(images), targets, reduction="none")
    if criterion == "GroupTaylor":
        return list(torch.autograd.grad(losses.mean(), parameters))
    squares = [torch.zeros_like(parameter) for parameter in parameters]
    for loss in losses:
        for square, slope in zip(squares, torch.autograd.grad(loss, parameters, retain_graph=True), strict=True):
            square += slope.square()
    return [square.sqrt() for square in squares]


def give(model: nn.Module, slopes: list[Tensor | None], importance: Any) -> None:
    """Let a copy of the dense network have its gradients."""
    for parameter, slope in zip(model.parameters(), slopes, strict=True):
        parameter.grad = None if slope is None else slope.clone()
    if hasattr(importance, "accumulate_grad"):
        importance.accumulate_grad(model)


def right(model: nn.Module, test: tuple[Tensor, Tensor]) -> float:
    """Share of test images that are classified correctly."""
    model.eval()
    with torch.no_grad():
        hits = [model(x).argmax(1) == y for x, y in zip(*(part.split(500) for part in test), strict=True)]
    return float(torch.cat(hits).float().mean())


if __name__ == "__main__":
    main()
