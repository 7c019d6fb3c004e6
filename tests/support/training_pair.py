"""One process of a training run of two, started by test_training_parallel; it says at the end what it holds."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn

from reconvene.errors import TrainingError
from reconvene.training import train_model
from reconvene.training.checkpoint import sha256
from reconvene.training.run import TrainingRun
from support.training_kills import CONFIG, EPOCHS, digits, net


def perturbed(rank: int) -> nn.Module:
    """The same network on every process but for the weights: the first process's must win."""
    model = net()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1 + rank)
    return model


def interrupt_at(step: int) -> Any:
    original = TrainingRun._step

    def interrupted(self: TrainingRun, *args: Any) -> Any:
        if self.done == step:
            raise KeyboardInterrupt
        return original(self, *args)

    TrainingRun._step = interrupted  # type: ignore[method-assign]
    return original


def main(root: Path) -> None:
    rank, data = int(os.environ["RANK"]), digits()
    whole, parts = perturbed(rank), perturbed(rank)
    result = train_model(whole, data, epochs=EPOCHS, directory=root / "whole", config=CONFIG)
    original = interrupt_at(13)
    try:
        train_model(parts, data, epochs=EPOCHS, directory=root / "parts", config=CONFIG)
    except KeyboardInterrupt:
        TrainingRun._step = original  # type: ignore[method-assign]
    resumed = train_model(parts, data, epochs=EPOCHS, directory=root / "parts", config=CONFIG)
    apart = ""
    try:
        train_model(net(), data, epochs=EPOCHS, directory=root / ("whole", "elsewhere")[rank], config=CONFIG)
    except TrainingError as error:
        apart = str(error).partition(":")[0]
    facts = {
        "apart": apart,
        "whole": sha256(whole.state_dict()),
        "parts": sha256(parts.state_dict()),
        "resumed_at": resumed.resumed_at,
        "loss": result.evaluation.loss,
        "accuracy": result.score,
        "count": result.evaluation.count,
        "train_loss": result.records[-1]["train_loss"],
    }
    (root / f"rank{rank}.json").write_text(json.dumps(facts))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
