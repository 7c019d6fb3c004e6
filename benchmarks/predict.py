"""Does sensitivity predict? One group alone is cut to an eighth, the network is trained, and the loss is written down.

The ground truth is a comparison like any other (``cut`` beside ``dense``): resumable, one line a run in
``benchmarks/results/predict.jsonl``. What the evaluators say beforehand goes to ``predict_scores.jsonl``. Run it again
to go on; ``--seconds 540`` stops after nine minutes.

    python benchmarks/predict.py --data ../shared/data/cifar10 [--tier small|quick] [--seconds N]
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import reconvene as rc
from reconvene import criteria
from reconvene.data import calibration, load_data
from reconvene.evaluator import EVALUATORS, evaluate_groups
from reconvene.experiments import compare, make_experiment
from reconvene.experiments.results import source_commit
from reconvene.models import example_inputs, resolve_address
from reconvene.structure import analyse
from reconvene.utils.progress import notes_to

RESULTS = Path(__file__).parent / "results"
SHARE = 1 / 8
DENSITY = 1 / 16
CRITERIA = ("synflow", "snip", "magnitude")
# Models with their arguments, epochs and seeds.
TIERS: dict[str, dict[str, Any]] = {
    "quick": {
        "models": [("resnet20", {"width": 0.25}, 2, 1)],
        "data": {"name": "digits", "spec": "digits", "limit": 600},
    },
    "small": {
        "models": [
            ("vgg16_bn", {"width": 0.25}, 5, 3),
            ("resnet20", {}, 3, 3),
            ("mobilenetv2", {"width": 0.5}, 3, 1),  # 26 runs a seed, and each takes four times as long as VGG's
        ],
        "data": {"name": "cifar10", "spec": "", "limit": 5000},
    },
}


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--data", default="../shared/data/cifar10", help="where the images of tier small lie")
    options.add_argument("--tier", choices=TIERS, default="small")
    options.add_argument("--models", default="", help="only these, with commas between")
    options.add_argument("--seconds", type=float, default=None)
    options.add_argument("--results", type=Path, default=RESULTS)
    asked = options.parse_args()
    suffix = "" if asked.tier == "small" else f"_{asked.tier}"
    deadline = None if asked.seconds is None else time.monotonic() + asked.seconds
    tier = TIERS[asked.tier]
    images = {**tier["data"], "spec": tier["data"]["spec"] or asked.data}
    for model, args, epochs, seeds in tier["models"]:
        if asked.models and model not in asked.models.split(","):
            continue
        for seed in range(seeds):
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                return
            say_before(model, args, images, seed, asked.results / f"predict_scores{suffix}.jsonl")
            experiment = make_experiment(truth(model, args, epochs, images, seed))
            with notes_to(partial(print, flush=True)):
                found = compare(
                    experiment,
                    asked.results / f"predict{suffix}.jsonl",
                    Path(tempfile.gettempdir()) / "reconvene-predict",
                    seconds=left,
                )
            print(f"{model}, seed {seed}: {len(found.records)} runs done, {found.left} left", flush=True)


def truth(model: str, args: dict[str, Any], epochs: int, images: dict[str, Any], seed: int) -> dict[str, Any]:
    """The experiment that finds out what every group alone is worth."""
    dense = resolve_address(model, args, seed=seed).build()
    groups = [group.name for group in rc.groups(dense, example_inputs((3, 32, 32))) if group.prunable]
    return {
        "epochs": epochs,
        "seeds": [seed],
        "latency": False,
        "train": {"batch_size": 64} if images["name"] != "digits" else {},
        "models": [{"model": model, "args": args}],
        "data": [images],
        "arms": [{"arm": "dense"}, {"arm": "cut", "group": groups, "share": SHARE}],
    }


def say_before(model: str, args: dict[str, Any], images: dict[str, Any], seed: int, path: Path) -> None:
    """What every evaluator of every criterion says of a cut to ``SHARE``, one line for each, unless it is there."""
    known = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    dense = resolve_address(model, args, seed=seed).build()
    inputs = example_inputs((3, 32, 32), seed=seed)
    dataset = load_data(images["spec"], limit=images["limit"])
    for criterion in CRITERIA:
        samples = calibration(dataset, 10 * len(dataset.classes), seed=seed)
        found = None
        for evaluator in EVALUATORS:
            name = {"model": model, "args": args, "seed": seed, "criterion": criterion, "evaluator": evaluator}
            if any(all(line[key] == value for key, value in name.items()) for line in known):
                continue
            start = time.process_time()
            structure = analyse(dense, inputs)
            found = found or criteria.score(dense, inputs, criterion, data=samples, seed=seed, density=DENSITY)
            objective = criteria.objective(dense, inputs, criterion, data=samples, seed=seed)
            curves = evaluate_groups(structure, found, evaluator=evaluator, objective=objective, density=DENSITY).curves
            loss = {curve.group: float(curve.loss[max(1, round(SHARE * curve.width))]) for curve in curves}
            line = {**name, "share": SHARE, "loss": loss, "cpu_seconds": time.process_time() - start}
            line["commit"] = source_commit()
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("a") as file:
                file.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
