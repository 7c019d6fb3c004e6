"""Time SynFlow's rounds beside the usual loop, turn by turn in one run, and compare the masks.

python benchmarks/synflow_time.py --model vgg16_bn --rounds 100 --density 0.0617

The row of the network goes to ``benchmarks/results/synflow_time.jsonl`` in place of an older one.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from architectures.results import facts
from reference_synflow import overlap, reference_synflow
from rows import put_row
from torch import Tensor

from reconvene.criteria.base import Subject
from reconvene.criteria.masks import rounds_of
from reconvene.criteria.registry import CRITERIA
from reconvene.criteria.weights import Layout
from reconvene.models import MODELS

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "synflow_time.jsonl"
USUAL = "usual loop, float64"


def ours(model: torch.nn.Module, inputs: Tensor, density: float, rounds: int) -> Iterator[dict[str, Tensor]]:
    """What ``reconvene.masks`` does, round by round."""
    subject = Subject(model, inputs, Layout.of(model))
    scorer = CRITERIA["synflow"].begin(subject)
    for _, _, alive in rounds_of(scorer, subject.layout, density, rounds, None):
        yield subject.layout.views(alive)


def main() -> None:
    """Print one line per loop."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="vgg16_bn", choices=sorted(MODELS))
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--density", type=float, default=1 / 16.21)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    model, inputs = MODELS[options.model](), torch.ones(1, 3, 32, 32)
    loops: dict[str, Iterator[dict[str, Tensor]]] = {
        USUAL: reference_synflow(model, inputs, options.density, options.rounds),
        "reconvene": ours(model, inputs, options.density, options.rounds),
    }
    wall: dict[str, list[float]] = {name: [] for name in loops}
    cpu: dict[str, list[float]] = {name: [] for name in loops}
    last: dict[str, Any] = {}
    for _ in range(options.rounds):
        for name, loop in loops.items():
            started = time.perf_counter(), time.process_time()
            last[name] = next(loop)
            wall[name].append(time.perf_counter() - started[0])
            cpu[name].append(time.process_time() - started[1])
    share = overlap(last["reconvene"], last[USUAL])
    row = {
        "model": options.model,
        "rounds": options.rounds,
        "density": options.density,
        "threads": options.threads,
        "wall_seconds": {name: round(sum(wall[name]), 3) for name in loops},
        "cpu_seconds": {name: round(sum(cpu[name]), 3) for name in loops},
        "overlap": share,
        "load": os.getloadavg()[0],
        **facts(ROOT),
    }
    put_row(RESULTS, row, same=("model",))
    print(f"{options.model}, {options.rounds} rounds to {options.density:.4f}, {options.threads} threads")
    for name in loops:
        print(f"{name:<26} wall {sum(wall[name]):7.2f} s  median round {1e3 * statistics.median(wall[name]):7.1f} ms  "
              f"least {1e3 * min(wall[name]):7.1f} ms  cpu {sum(cpu[name]):7.2f} s")  # fmt: skip
    slow, fast = (sum(cpu[name]) for name in loops)
    print(f"ours takes {fast / slow:.3f} of its processor time; masks overlap {100 * share:.2f} %")


if __name__ == "__main__":
    main()
