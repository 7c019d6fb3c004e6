"""SynFlow as its paper writes it, with no thought for time: what ours is measured against."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import torch
from torch import Tensor, nn


def reference_synflow(model: nn.Module, inputs: Tensor, density: float, rounds: int) -> Iterator[dict[str, Tensor]]:
    """Masks by parameter name after each of ``rounds`` rounds (2006.05467, algorithm 1).

    Float64, one forward and backward pass a round, one flat buffer of all scores, ``kthvalue`` for the threshold. Norm
    layers are neutral because those of a network just built are. The model is copied, not touched.
    """
    twin = copy.deepcopy(model).double().eval()
    with torch.no_grad():
        for name, parameter in twin.named_parameters():
            parameter.zero_() if name.endswith("bias") else parameter.abs_()
    weights = {name: parameter for name, parameter in twin.named_parameters() if parameter.ndim >= 2}
    ones = torch.ones(1, *inputs.shape[1:], dtype=torch.float64)
    total = sum(weight.numel() for weight in weights.values())
    for k in range(1, rounds + 1):
        twin.zero_grad()
        twin(ones).sum().backward()
        scores = {name: (weight.grad * weight).detach() for name, weight in weights.items()}
        flat = torch.cat([score.flatten() for score in scores.values()])
        removed = total - max(1, int(density ** (k / rounds) * total + 0.5))
        threshold = torch.kthvalue(flat, removed).values if removed else -torch.inf
        masks = {name: score > threshold for name, score in scores.items()}
        with torch.no_grad():
            for name, weight in weights.items():
                weight.mul_(masks[name])
        yield masks


def overlap(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> float:
    """Share of the weights that one keeps which the other keeps too."""
    both = sum(int((mask & theirs[name]).sum()) for name, mask in ours.items())
    return both / sum(int(mask.sum()) for mask in theirs.values())
