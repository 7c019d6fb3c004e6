"""Seconds from a network to its pruned, rectified form: by default, with SynFlow, and SynFlow's usual loop alone.

    python benchmarks/prune_time.py                        # all five networks
    python benchmarks/prune_time.py vgg16_bn resnet18      # some
    python benchmarks/prune_time.py --reference-rounds 5   # time fewer rounds of the usual loop and scale up

*default* scores nothing (evaluator ``fan_in``); *synflow* scores every weight in a hundred rounds (evaluator
``density``). Repeats are interleaved over networks and ways. Times are the least over the repeats; the loop's time is
its measured rounds scaled to a hundred, since every round costs the same. Each network's row goes to
``benchmarks/results/prune_time.jsonl`` in place of an older one.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path
from typing import Any

import torch
from architectures.results import facts
from reference_synflow import reference_synflow
from rows import put_row
from torch import Tensor, nn

import reconvene as rc
from reconvene.models import example_inputs, resolve_address

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "prune_time.jsonl"
MODELS = {
    "vgg16_bn": "vgg16_bn",
    "resnet18": "resnet18",
    "resnet50@224": "torchvision:resnet50",
    "mobilenet_v2@224": "torchvision:mobilenet_v2",
    "densenet121@224": "torchvision:densenet121",
}
WAYS: dict[str, dict[str, str]] = {"default": {}, "synflow": {"criterion": "synflow", "evaluator": "density"}}
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
LOOP = "loop"
REFERENCE_SIZE = 32
"""A round of the usual loop at 224x224 costs seconds, so it reads the small input that suits SynFlow as well."""

Seconds = dict[str, dict[str, float]]


def main() -> None:
    """Print one table and write its rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=list(MODELS), help=f"some of {', '.join(MODELS)}")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--reference-rounds", type=int, default=5)
    parser.add_argument("--budget", default="16.21x", help="parameters, as --params takes it")
    options = parser.parse_args()
    unknown = set(options.models) - set(MODELS)
    if unknown:
        parser.error(f"no {', '.join(sorted(unknown))} here. Available: {', '.join(MODELS)}")
    torch.set_num_threads(1)
    best: dict[str, Seconds] = {name: {} for name in options.models}
    for _ in range(options.repeats):
        for name in options.models:
            for way, steps in once(name, options.budget, options.reference_rounds).items():
                known = best[name].setdefault(way, steps)
                best[name][way] = {step: min(seconds, known[step]) for step, seconds in steps.items()}
    about = {"budget": options.budget, "repeats": options.repeats, "load": os.getloadavg()[0], **facts(ROOT)}
    for name, seconds in best.items():
        rounded = {way: {step: round(value, 4) for step, value in steps.items()} for way, steps in seconds.items()}
        put_row(RESULTS, {"model": name, "seconds": rounded, **about}, same=("model",))
    show(best)


def once(name: str, budget: str, reference_rounds: int) -> Seconds:
    """One pruning of one network each way, step by step, and some rounds of the usual loop."""
    source = resolve_address(MODELS[name])
    assert source.input_shape is not None
    model, inputs = source.build(), example_inputs(source.input_shape)
    seconds = {way: pruned(model, inputs, budget, options) for way, options in WAYS.items()}
    return {**seconds, LOOP: {"all": loop(model, inputs, reference_rounds)}}


def pruned(model: nn.Module, inputs: Tensor, budget: str, options: dict[str, str]) -> dict[str, float]:
    """Seconds of every step of ``rc.prune``, and of all."""
    started = time.perf_counter()
    small = rc.prune(model, inputs, rc.Budget(params=budget), **options)
    whole = time.perf_counter() - started
    plan: Any = small.reconvene_plan
    return {**{step: plan.timings.get(step, 0.0) for step in STEPS}, "all": whole}


def loop(model: nn.Module, inputs: Tensor, rounds: int) -> float:
    """Seconds of a hundred rounds of the usual loop."""
    started = time.perf_counter()
    for _ in reference_synflow(model, inputs[..., :REFERENCE_SIZE, :REFERENCE_SIZE], 0.5, rounds):
        pass
    return (time.perf_counter() - started) / rounds * 100


def show(best: dict[str, Seconds]) -> None:
    """Steps down, networks across."""
    print(f"{'seconds':<26}" + "".join(f"{name:>19}" for name in best))
    first = next(iter(best.values()))
    for way, step in ((way, step) for way, steps in first.items() for step in steps):
        print(f"{way + ', ' + step:<26}" + "".join(f"{seconds[way][step]:>19.2f}" for seconds in best.values()))


if __name__ == "__main__":
    main()
