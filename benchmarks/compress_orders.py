"""In which order are a network's compressions best? Four orders of the same stages, with as many epochs in all.

python benchmarks/compress_orders.py --data digits            # every order and seed that is not there yet
python benchmarks/compress_orders.py --data ../shared/data/cifar10 --limit 10000 --epochs 8
python benchmarks/pages compress_orders                       # writes the table of the docs

Every line of ``results/compress_orders.jsonl`` is one recipe: its stages with the accuracy of the file in ONNX Runtime,
its bytes and costs. Stopped, the same command goes on within the recipe: its folders stay in ``out/compress_orders``.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from rows import add_row, read_rows

import reconvene as rc
from reconvene.training.machine import library_versions
from reconvene.utils.machine import now

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "compress_orders.jsonl"
FEWEST_EPOCHS = 4
LOOSE = {"agreement": 0.0, "sqnr": -100.0, "accuracy_drop": 1.0}
"""Limits that no file breaks: a bad order stays in the table."""


def orders(epochs: int) -> dict[str, list[dict[str, Any]]]:
    """The stages of every order: ``epochs`` of training, half as many of tuning, a quarter quantisation-aware."""
    train, tune = {"train": {"epochs": epochs}}, {"distil": {"epochs": max(epochs // 2, 1)}}
    prune, aware = {"prune": {"macs": "4x"}}, {"quantise": {"epochs": max(epochs // 4, 1)}}
    plain = {"train": {"epochs": epochs + max(epochs // 2, 1)}}
    return {
        "train, prune, distil, quantise": [train, prune, tune, aware],
        "prune, train, quantise": [prune, plain, aware],
        "train, quantise, prune, distil": [train, aware, prune, tune],
        "train, prune, quantise, distil": [train, prune, {"train": {"epochs": 1}}, aware, _less(tune)],
    }


def _less(tune: Mapping[str, Any]) -> dict[str, Any]:
    """One epoch fewer: the one in which the pruned network was trained before it was quantised."""
    return {"distil": {"epochs": max(tune["distil"]["epochs"] - 1, 1)}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="digits")
    parser.add_argument("--limit", type=int, default=1000)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--model", default="resnet20")
    parser.add_argument("--width", type=float, default=0.5)
    parser.add_argument("--only", help="only orders whose name has this in it")
    given = parser.parse_args()
    if given.epochs < FEWEST_EPOCHS:
        parser.error(f"--epochs {given.epochs}: with fewer than {FEWEST_EPOCHS} the orders have different totals")
    torch.set_num_threads(1)
    for seed in range(given.seeds):
        for name, stages in orders(given.epochs).items():
            if given.only and given.only not in name:
                continue
            asked = {"order": name, "seed": seed, "data": Path(given.data).name, "limit": given.limit}
            asked |= {"model": given.model, "width": given.width, "epochs": given.epochs}
            if any({key: row[key] for key in asked} == asked for row in read_rows(RESULTS)):
                continue
            recipe = {"model": given.model, "args": {"width": given.width}, "data": given.data, "limit": given.limit}
            folder = "-".join([str(value).replace(", ", "-") for value in asked.values()])
            result = rc.compress(
                {**recipe, "seed": seed, "stages": [*stages, {"export": LOOSE}]}, Path("out/compress_orders") / folder
            )
            row = {
                **asked,
                "stages": [asdict(stage) for stage in result.stages],
                "libraries": library_versions(),
                "date": now(),
            }
            add_row(RESULTS, row)
            print(result, flush=True)


if __name__ == "__main__":
    main()
