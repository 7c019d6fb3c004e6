"""Processor seconds of one search for one budget, beside one search of PLiNIO for one price, in turns.

    git clone https://github.com/eml-eda/plinio && pip install torchinfo tdigest
    python benchmarks/search_time.py --plinio plinio

Both search widths and bits (0, 2, 4, 8) of the same ResNet-8 on the same batches of digits, for as many epochs, and
then train on with frozen bits. PLiNIO by its published recipe (2407.01054): Adam on weights, SGD on its choices, the
cost times a price in the loss. Its price is one that somebody has to find first, run after run; ours keeps a size.
The row goes to ``results/search_time.jsonl``; ``python benchmarks/pages search_time`` puts it into docs/bits.md.
"""

from __future__ import annotations

import argparse
import copy
import importlib
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from rows import put_row
from torch import Tensor, nn

import reconvene as rc
from reconvene.data import load_data
from reconvene.models import MODELS
from reconvene.utils.machine import machine, now

RESULTS = Path(__file__).parent / "results" / "search_time.jsonl"
SHAPE, BITS, BATCH = (3, 16, 16), (0, 2, 4, 8), 64
SIZE, PRICE = "20kB", 1e-6
Batches = list[tuple[Tensor, Tensor]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plinio", type=Path, required=True, help="a clone of its repository")
    parser.add_argument("--rounds", type=int, default=3, help="searches of each")
    parser.add_argument("--search", type=int, default=5, help="epochs of search")
    parser.add_argument("--finetune", type=int, default=3, help="epochs with frozen bits")
    given = parser.parse_args()
    if not (given.plinio / "plinio").is_dir():
        print(f"no clone of PLiNIO at {given.plinio}: nothing is measured")
        return
    sys.path.insert(0, str(given.plinio))
    torch.set_num_threads(1)
    data = load_data("digits", input_shape=SHAPE)
    images, targets = data.normalise(data.train.images), data.train.targets
    batches = list(zip(images.split(BATCH), targets.split(BATCH), strict=True))
    model = trained(batches)
    searches: dict[str, Callable[[], Any]] = {
        "reconvene": lambda: ours(model, batches, given.search, given.finetune),
        "PLiNIO": lambda: plinio(model, batches, given.search, given.finetune),
    }
    seconds: dict[str, list[float]] = {name: [] for name in searches}
    for _ in range(given.rounds):
        for name, search in searches.items():
            start = time.process_time()
            search()
            seconds[name].append(time.process_time() - start)
    ratios = [own / other for own, other in zip(*seconds.values(), strict=True)]
    row = {
        "model": "resnet8",
        "data": str(data),
        "epochs": [given.search, given.finetune],
        "seconds": seconds,
        "ratio": median(ratios),
        "machine": machine(),
        "date": now(),
    }
    put_row(RESULTS, row, same=("model", "data"))
    print(json.dumps(row))


def trained(batches: Batches) -> nn.Module:
    """The network that both begin with, after an epoch in float."""
    torch.manual_seed(0)
    model: nn.Module = MODELS["resnet8"](num_classes=10)
    descend(model, batches, 1, [torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)])
    return model


def ours(model: nn.Module, batches: Batches, search: int, finetune: int) -> nn.Module:
    """One search for a budget on size; the network that keeps it."""
    return rc.search(
        model,
        batches[0][0][:1],
        rc.Budget(size=SIZE),
        BITS,
        train=batches,
        epochs=search + finetune,
        finetune=finetune,
    )


def plinio(model: nn.Module, batches: Batches, search: int, finetune: int) -> nn.Module:
    """One search for a price, and the training with what it chose."""
    methods = importlib.import_module("plinio.methods.mps")
    cost = importlib.import_module("plinio.cost").params_bit
    network: Any = methods.MPS(
        copy.deepcopy(model),
        input_shape=SHAPE,
        qinfo=methods.get_default_qinfo(w_precision=BITS, a_precision=(8,)),
        w_search_type=methods.MPSType.PER_CHANNEL,
        cost=cost,
    )
    network.train()
    weights = torch.optim.Adam(network.net_parameters(), 1e-3)
    choices = torch.optim.SGD(network.nas_parameters(), 1e-2, momentum=0.9)
    descend(network, batches, search, [weights, choices], lambda: PRICE * network.cost)
    network.train_net_only()
    network.update_softmax_options(hard=True)
    descend(network, batches, finetune, [torch.optim.Adam(network.net_parameters(), 1e-3)])
    return network


def descend(
    model: nn.Module,
    batches: Batches,
    epochs: int,
    optimizers: list[torch.optim.Optimizer],
    penalty: Callable[[], Tensor | float] = lambda: 0.0,
) -> None:
    """Plain training in place."""
    model.train()
    for _ in range(epochs):
        for images, targets in batches:
            loss = nn.functional.cross_entropy(model(images), targets) + penalty()
            for optimizer in optimizers:
                optimizer.zero_grad()
            loss.backward()
            for optimizer in optimizers:
                optimizer.step()


if __name__ == "__main__":
    main()
