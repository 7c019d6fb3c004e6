"""What cheaper non-linear operations cost in accuracy and win in time: int8 files before and after ``replace``.

python benchmarks/replace_operations.py                        # every network and seed that is not there yet
python benchmarks/replace_operations.py --data ../shared/data/cifar10 --limit 10000 --epochs 20
python benchmarks/pages replace_operations                     # writes the table of the docs

Every line of ``results/replace_operations.jsonl`` is one recipe: train, int8, replace with three epochs, export. The
latencies are those of the files of all stages, timed in turns in one run. Stopped, the same command goes on.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from rows import add_row, read_rows

import reconvene as rc
from reconvene.training.machine import library_versions
from reconvene.utils.machine import machine, now

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "replace_operations.jsonl"
LOOSE = {"agreement": 0.0, "sqnr": -100.0, "accuracy_drop": 1.0}
"""Limits that no file breaks: a bad replacement stays in the table."""
VIT = {"img_size": 32, "patch_size": 4, "depth": 4, "embed_dim": 64, "num_heads": 2}
NETWORKS: dict[str, dict[str, Any]] = {
    "mobilenetv3 to ReLU": {"model": "timm:mobilenetv3_small_050", "allow": ["relu", "hardsigmoid"], "price": 0.2},
    "mobilenetv3 to ReLU6": {"model": "timm:mobilenetv3_small_050", "allow": ["relu", "relu6"], "price": 0.6},
    "vit, GELU to polynomials": {
        "model": "timm:vit_tiny_patch16_224",
        "args": VIT,
        "allow": ["polynomial", "softmax", "layer_norm"],
    },
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="digits")
    parser.add_argument("--limit", type=int, default=1000)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--only", action="append", choices=sorted(NETWORKS))
    given = parser.parse_args()
    torch.set_num_threads(1)
    for seed in range(given.seeds):
        for name in given.only or NETWORKS:
            asked = {"network": name, "seed": seed, "data": Path(given.data).name, "limit": given.limit}
            asked |= {"epochs": given.epochs}
            if any({key: row[key] for key in asked} == asked for row in read_rows(RESULTS)):
                continue
            row = {**asked, **carried_out(name, given, seed), "date": now()}
            add_row(RESULTS, row)


def carried_out(name: str, given: argparse.Namespace, seed: int) -> dict[str, Any]:
    """The stages of one recipe and the latencies of their files."""
    network = NETWORKS[name]
    stages: list[Any] = [{"train": {"epochs": given.epochs}}, "quantise"]
    price = {"price": network["price"]} if "price" in network else {}
    stages += [{"replace": {"allow": network["allow"], **price, "epochs": 3, "lr": 0.02}}, {"export": LOOSE}]
    recipe = {"model": network["model"], "args": network.get("args", {}), "input": [3, 32, 32], "seed": seed}
    recipe |= {"data": given.data, "limit": given.limit, "stages": stages}
    folder = "-".join([*name.replace(",", "").split(), Path(given.data).name, str(given.limit), str(seed)])
    result = rc.compress(recipe, Path("out/replace_operations") / folder)
    print(result, flush=True)
    rows = [{**asdict(s), "latency": t} for s, t in zip(result.stages, result.latencies, strict=True)]
    return {"stages": rows, "libraries": library_versions(), "machine": dict(machine())}


if __name__ == "__main__":
    main()
