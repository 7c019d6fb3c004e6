"""Prune a network further with Torch-Pruning, after training for instance: it sees an ordinary, smaller module.

pip install 'reconvene[compat]'; python examples/torch_pruning_further.py
"""

from __future__ import annotations

import torch
import torch_pruning as tp
from torch import nn

import reconvene as rc
from reconvene.models import MODELS


def main() -> tuple[nn.Module, list[int]]:
    """The network, and how many parameters it had dense, pruned at initialization, and pruned again."""
    torch.manual_seed(0)
    dense, images = MODELS["resnet20"](width=0.5), torch.randn(1, 3, 32, 32)
    small = rc.prune(dense, images, rc.Budget(params="2x"))
    counts = [sum(p.numel() for p in model.parameters()) for model in (dense, small)]
    classifier = next(module for module in reversed(list(small.modules())) if isinstance(module, nn.Linear))
    pruner = tp.pruner.MagnitudePruner(
        small, images, importance=tp.importance.MagnitudeImportance(), pruning_ratio=0.5, ignored_layers=[classifier]
    )
    pruner.step()
    return small, [*counts, sum(p.numel() for p in small.parameters())]


if __name__ == "__main__":
    print("parameters: " + " -> ".join(f"{count:,}" for count in main()[1]))
