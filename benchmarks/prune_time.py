"""Seconds of every step from a network to its pruned, rectified form, beside a straightforward 100-round SynFlow loop.

    python benchmarks/prune_time.py                        # all five networks
    python benchmarks/prune_time.py vgg16_bn resnet18      # some
    python benchmarks/prune_time.py --reference-rounds 5   # time fewer rounds of the slow loop and scale up

Repeats are interleaved over the networks. Times are the least over the repeats; the reference loop's time is its
measured rounds scaled to 100, since every round costs the same.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parent))
from reference_synflow import reference_synflow

import reconvene as rc
from reconvene.models import example_inputs, resolve_address
from reconvene.utils.machine import machine

ROOT = Path(__file__).resolve().parents[1]
MODELS = {
    "vgg16_bn": "vgg16_bn",
    "resnet18": "resnet18",
    "resnet50@224": "torchvision:resnet50",
    "mobilenet_v2@224": "torchvision:mobilenet_v2",
    "densenet121@224": "torchvision:densenet121",
}
STEPS = (
    "structure",
    "saliency",
    "sensitivity",
    "allocation",
    "replay",
    "spread",
    "plan",
    "verify",
    "surgery",
    "rectify",
)
# A round of the straightforward loop at 224x224 costs seconds, so it is fed the small input that suits SynFlow as well.
REFERENCE_SIZE = 32


def main() -> None:
    """Print one table and write it to ``benchmarks/results/prune_time.jsonl``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=list(MODELS), help=f"some of {', '.join(MODELS)}")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--reference-rounds", type=int, default=5)
    parser.add_argument("--budget", default="16.21x", help="parameters, as --params takes it")
    options = parser.parse_args()
    unknown = set(options.models) - set(MODELS)
    if unknown:
        parser.error(f"no {', '.join(sorted(unknown))} here. Available: {', '.join(MODELS)}")
    best: dict[str, dict[str, float]] = {name: {} for name in options.models}
    for _ in range(options.repeats):
        for name in options.models:
            for step, seconds in once(name, options.budget, options.reference_rounds).items():
                best[name][step] = min(seconds, best[name].get(step, seconds))
    rows = [{"model": name, "seconds": {k: round(v, 4) for k, v in best[name].items()}} for name in options.models]
    show(rows)
    facts = {"budget": options.budget, "repeats": options.repeats, "torch": torch.__version__, **machine()}
    lines = [json.dumps({**row, **facts, "load": os.getloadavg()[0]}) for row in rows]
    results = ROOT / "benchmarks" / "results" / "prune_time.jsonl"
    results.parent.mkdir(exist_ok=True)
    results.write_text("\n".join(lines) + "\n")


def once(name: str, budget: str, reference_rounds: int) -> dict[str, float]:
    """One pruning of one network, step by step, and some rounds of the reference loop."""
    source = resolve_address(MODELS[name])
    model = source.build()
    assert source.input_shape is not None
    inputs = example_inputs(source.input_shape)
    started = time.perf_counter()
    small = rc.prune(model, inputs, rc.Budget(params=budget))
    plan: Any = small.reconvene_plan
    seconds = {step: plan.timings.get(step, 0.0) for step in STEPS}
    seconds["all"] = time.perf_counter() - started
    seconds["all but saliency"] = seconds["all"] - seconds["saliency"]
    seconds["straightforward SynFlow"] = reference(model, inputs, reference_rounds)
    return seconds


def reference(model: nn.Module, inputs: Tensor, rounds: int) -> float:
    """Seconds of 100 rounds of the straightforward loop."""
    started = time.perf_counter()
    for _ in reference_synflow(model, inputs[..., :REFERENCE_SIZE, :REFERENCE_SIZE], 0.5, rounds):
        pass
    return (time.perf_counter() - started) / rounds * 100


def show(rows: list[dict[str, Any]]) -> None:
    """Steps down, networks across."""
    columns = [row["model"] for row in rows]
    print(f"{'seconds':<26}" + "".join(f"{name:>19}" for name in columns))
    for step in rows[0]["seconds"]:
        print(f"{step:<26}" + "".join(f"{row['seconds'][step]:>19.2f}" for row in rows))


if __name__ == "__main__":
    main()
