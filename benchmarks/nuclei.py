"""Nuclei told apart by a trained U-Net that is cut to 15 % and, without fine-tuning, to 30 % of its parameters.

Every line of ``results/nuclei.jsonl`` is one arm of one seed: a U-Net of base 16 at 128x128 pixels, instances of the
nuclei data, and the metrics of the test images. Cut arms are tuned for as many epochs each; the one from scratch has as
many as the dense network and the tuning together. Stopped at any moment, the same command goes on from its checkpoints:
``--seconds 220`` does a slice of the work and ends with code 3 while there is more to do.
"""

from __future__ import annotations

import argparse
import json
import signal
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rows import add_row, read_rows
from torch import nn

import reconvene as rc
from reconvene import artifact
from reconvene.data import Dataset, load_data
from reconvene.deploy import time_variants
from reconvene.evaluator.evaluators import usual_evaluator
from reconvene.models import ModelSource, example_inputs
from reconvene.training import TrainConfig, evaluate_split
from reconvene.workflow import Lesson, Pruning, Tuned, prune_in_steps, rewound, train

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "nuclei.jsonl"
SHAPE = (3, 128, 128)
METRICS = ("pq", "aji", "dice")
RECIPE: dict[str, Any] = {"batch_size": 8, "precision": "fp32", "lr": 0.05, "device": "cpu", "checkpoint_seconds": 15.0}


@dataclass(frozen=True)
class NucleiArm:
    """A network with this share of the parameters; ``scratch``: the widths of another arm, drawn anew.

    ``teacher``: weight of the dense network's outputs in the loss while tuning.
    """

    name: str
    share: float
    criterion: str = ""
    tuned: bool = True
    scratch: bool = False
    teacher: float = 0.0


DENSE = NucleiArm("dense", 1.0)
ARMS = (
    NucleiArm("taylor", 0.15, "taylor"),
    NucleiArm("group_l2", 0.15, "group_l2"),
    NucleiArm("random channels", 0.15, "random"),
    NucleiArm("from scratch, widths of taylor", 0.15, "taylor", scratch=True),
    NucleiArm("taylor, taught by dense", 0.15, "taylor", teacher=0.5),
    NucleiArm("taylor, one shot", 0.3, "taylor", tuned=False),
    NucleiArm("random channels, one shot", 0.3, "random", tuned=False),
)


class SliceIsOver(BaseException):
    """The seconds that were asked for are spent."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=HERE.parents[1] / "shared" / "data" / "nuclei")
    parser.add_argument("--work", type=Path, default=Path("out/nuclei"), help="folder of unfinished networks")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=12, help="of the dense network; a third of it for tuning")
    parser.add_argument("--limit", type=int, default=None, help="images of a split, for a trial")
    parser.add_argument("--seconds", type=int, default=0, help="stop after so many; 0: go on to the end")
    parser.add_argument("--results", type=Path, default=RESULTS)
    given = parser.parse_args()
    if not given.data.is_dir():
        print(f"no data at {given.data}: nothing is measured")
        return
    torch.set_num_threads(1)
    signal.signal(signal.SIGALRM, _stop)
    signal.alarm(given.seconds)
    try:
        measure_all(given)
    except SliceIsOver:
        raise SystemExit(3) from None


def _stop(number: int, frame: object) -> None:
    raise SliceIsOver


def measure_all(given: argparse.Namespace) -> None:
    """Every arm of every seed that is not in the results yet."""
    data = load_data(given.data, task="segmentation", input_shape=SHAPE, limit=given.limit)
    conditions = {"data": str(data), "epochs": given.epochs}
    done = {(row["seed"], row["arm"]["name"]) for row in read_rows(given.results) if row["conditions"] == conditions}
    for seed, arm in ((seed, arm) for seed in range(given.seeds) for arm in (DENSE, *ARMS)):
        if (seed, arm.name) in done:
            continue
        bench = Nuclei(given.work, data, seed, given.epochs)
        row = {"seed": seed, "arm": asdict(arm), "conditions": conditions, **bench.measure(arm)}
        given.results.parent.mkdir(exist_ok=True)
        add_row(given.results, row)
        print(json.dumps(row), flush=True)


@dataclass(frozen=True)
class Nuclei:
    """The networks of one seed, each in a folder of its own."""

    work: Path
    data: Dataset
    seed: int
    epochs: int

    @property
    def source(self) -> ModelSource:
        """The U-Net, with the outputs that the task needs."""
        return ModelSource("unet", {"num_classes": self.data.outputs, "width": 0.5}, SHAPE, self.seed)

    @property
    def config(self) -> TrainConfig:
        """The recipe of the dense network."""
        return TrainConfig(seed=self.seed, **RECIPE)

    def folder(self, name: str) -> Path:
        """Where a network of this seed lies."""
        return self.work / f"{name.replace(' ', '-').replace(',', '')}-{self.seed}"

    def measure(self, arm: NucleiArm) -> dict[str, Any]:
        """Metrics of the test images, parameters and latency of an arm's network."""
        dense = rc.load(self._dense())
        folder = self._dense() if arm == DENSE else self._from_scratch(arm) if arm.scratch else self._cut(arm)
        network, curve = rc.load(folder).eval(), artifact.Artifact.open(folder).curve
        metrics = evaluate_split(network, self.data).metrics
        step = None if curve is None else curve.steps[-1]
        timed = time_variants(
            {"dense": dense.eval(), "this": network}, example_inputs(SHAPE), runtimes=("onnxruntime",), repeats=20
        )
        rows = {name: timed.row("onnxruntime", name).median for name in ("dense", "this")}
        return {
            **{name: metrics[name] for name in METRICS},
            "pq_as_cut": None if step is None else step.cut,
            "pq_repaired": None if step is None else step.repaired,
            "params": sum(parameter.numel() for parameter in network.parameters()),
            "latency": rows["this"] / rows["dense"],
        }

    def _dense(self) -> Path:
        """The dense network, trained."""
        folder = self.folder("dense")
        if not (folder / artifact.MANIFEST).exists():
            artifact.save(self.source.build(), folder, source=self.source)
        train(folder, self.data, epochs=self.epochs, config=self.config)
        return folder

    def _cut(self, arm: NucleiArm) -> Path:
        """The dense network cut, repaired from training images, and tuned where the arm is."""
        epochs = self.epochs // 3 if arm.tuned else 0
        recipe = {name: value for name, value in RECIPE.items() if name in ("device", "checkpoint_seconds")}
        config = replace(rewound(artifact.Artifact.open(self._dense()).training, epochs), **recipe)
        prune_in_steps(
            self.source,
            self.folder(arm.name),
            budget=rc.Budget(params=arm.share),
            tuned=Tuned(steps=1, epochs=epochs, config=config, lesson=Lesson(weight=arm.teacher)),
            dataset=self.data,
            pruning=Pruning(
                criterion=arm.criterion,
                evaluator=usual_evaluator(arm.criterion),
                rectify="reconstruct",
                seed=self.seed,
                trained=True,
            ),
            base=self._dense(),
        )
        return self.folder(arm.name)

    def _from_scratch(self, arm: NucleiArm) -> Path:
        """A network of the widths of the tuned arm with this criterion, drawn anew."""
        folder = self.folder(arm.name)
        if not (folder / artifact.MANIFEST).exists():
            tuned = next(other for other in ARMS if other.criterion == arm.criterion and other.tuned)
            plan = artifact.read_plan(self._cut(tuned))
            assert plan is not None, "it was cut"
            small: nn.Module = plan.apply(self.source.build())
            rc.rectify(small, plan, example_inputs(SHAPE), "reinit")
            artifact.save(small, folder, plan=plan, source=self.source)
        train(folder, self.data, epochs=self.epochs + self.epochs // 3, config=self.config)
        return folder


if __name__ == "__main__":
    main()
