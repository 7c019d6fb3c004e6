"""Spoken digits as log-mels, half of the channels of a spiking network: accuracy and synaptic operations by method.

Every line of ``results/spoken_digits.jsonl`` is one method and one seed. Lines are appended as runs finish, and what is
there is not done again. Methods, all by one recipe (SGD with Nesterov momentum, a cosine, no augmentation):

- ``dense``: the network as it is.
- ``half``: half of the channels of every layer from scratch.
- ``grow``: prune and regrow from scratch; half of the channels of every layer stay.
- ``random``: the same with channels that come back at random.
- ``grow trained``: prune and regrow from the trained dense network, with a ramp from 0 to 60 % of the steps.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from rows import add_row, read_rows
from torch import Tensor, nn

import reconvene as rc
from reconvene.costs.synops import count_synops
from reconvene.data import Dataset, load_data
from reconvene.models import MODELS
from reconvene.planning.regrowth.regrowth import RAMP, Regrowth
from reconvene.structure.state import clear_state

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "spoken_digits.jsonl"
METHODS = ("dense", "half", "grow", "random", "grow trained")
SIDE, WIDTH, EPOCHS, BATCH, LR = 16, 0.25, 8, 64, 0.05
SLOW_RAMP = (0.0, 0.6)


class RandomRegrowth(Regrowth):
    """Channels come back at random: the control that tells whether the gradient knows which ones to call."""

    def step(self, done: float) -> None:
        """As ``Regrowth``, behind a shuffle."""
        super().step(done)
        generator = np.random.default_rng(self._updated)
        for gradient in self.gradient:
            gradient[:] = generator.random(len(gradient))


def main() -> None:
    """Do the runs that are not there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="../shared/data/spoken_digits")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--only", choices=METHODS, default=None)
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    lines = read_rows(options.results)
    there = {(line["method"], line["seed"], line["epochs"]) for line in lines}
    dataset: Dataset | None = None
    for seed in range(options.seeds):
        for method in [options.only] if options.only else METHODS:
            if (method, seed, options.epochs) in there:
                continue
            dataset = dataset or load_data(options.data, input_shape=(1, SIDE, SIDE))
            line = run(method, seed, dataset, options.epochs)
            options.results.parent.mkdir(exist_ok=True)
            add_row(options.results, line)
            print(json.dumps(line), flush=True)


def run(method: str, seed: int, dataset: Dataset, epochs: int) -> dict[str, Any]:
    """One line of results."""
    torch.manual_seed(seed)
    seconds = time.process_time()
    model = MODELS["snn_vgg"](in_channels=1, width=WIDTH / 2 if method == "half" else WIDTH)
    x = dataset.normalise(dataset.train.images[:4])
    growth: Regrowth | None = None
    if method == "grow trained":
        model = trained(model, None, dataset, epochs, seed)
    if method in ("grow", "random", "grow trained"):
        halves = {group.name: 0.5 for group in rc.groups(model, x) if group.prunable}
        plan = rc.plan(model, x, rc.Budget(params=1.0), widths=halves, trained=True)
        kind = RandomRegrowth if method == "random" else Regrowth
        growth = kind(model, x, plan, ramp=SLOW_RAMP if method == "grow trained" else RAMP)
        model = growth.network
    small = trained(model, growth, dataset, epochs, seed)
    test = dataset.normalise(dataset.test.images)
    counted = count_synops(small, [test[:100]], x)
    with torch.no_grad():
        clear_state(small)
        accuracy = float((small(test).argmax(1) == dataset.test.targets).float().mean())
    return {
        **{"method": method, "seed": seed, "epochs": epochs, "accuracy": round(accuracy, 4)},
        **{"ac": round(counted.ac), "mac": round(counted.mac), "uJ": round(counted.joules * 1e6, 3)},
        **{"parameters": sum(p.numel() for p in small.parameters())},
        **{"processor_seconds": round(time.process_time() - seconds, 1), "torch": torch.__version__},
    }


def trained(model: nn.Module, growth: Regrowth | None, dataset: Dataset, epochs: int, seed: int) -> nn.Module:
    """The network after training, cut where there are masks, in eval mode."""
    images, targets = dataset.train.images, dataset.train.targets
    steps = len(images) // BATCH
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.SGD(model.parameters(), LR, 0.9, weight_decay=5e-4, nesterov=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * steps)
    model.train()
    for step in range(epochs * steps):
        if step % steps == 0:
            order = torch.randperm(len(images), generator=generator)
        rows: Tensor = order[step % steps * BATCH :][:BATCH]
        clear_state(model)
        optimizer.zero_grad()
        F.cross_entropy(model(dataset.normalise(images[rows])), targets[rows]).backward()
        optimizer.step()
        schedule.step()
        if growth is not None:
            growth.step((step + 1) / (epochs * steps))
    return (growth.cut() if growth is not None else model).eval()


if __name__ == "__main__":
    main()
