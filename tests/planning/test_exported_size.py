"""Budgets on exported files: the prediction follows the file, so that few networks need to be exported."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import reconvene as rc
from reconvene.planning.runtime_costs import ExportedSize

pytest.importorskip("onnxruntime")
INPUTS = torch.zeros(1, 3, 16, 16)


def _network(*, trained: bool) -> nn.Module:
    """Many channels for few weights, so that what is left of norms is a good part of the file."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for before, after in ((3, 64), (64, 96), (96, 128)):
        layers += [nn.Conv2d(before, after, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
    if trained:
        for norm in layers[1::3]:
            nn.init.normal_(norm.bias)
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, 10)).eval()


@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_the_first_network_that_is_exported_is_about_as_large_as_asked(
    monkeypatch: pytest.MonkeyPatch, precision: str, trained: bool
) -> None:
    sizes: list[float] = []
    measure = ExportedSize.measure

    def noted(self: ExportedSize, model: nn.Module, example_inputs: Any) -> float:
        sizes.append(measure(self, model, example_inputs))
        return sizes[-1]

    monkeypatch.setattr(ExportedSize, "measure", noted)
    limit = {"fp32": 50_000, "int8": 22_000}[precision]
    budget = rc.Budget(size=limit)
    plan = rc.plan(
        _network(trained=trained), INPUTS, budget, "magnitude", size_of=["onnx"], precision=precision, round_to=1
    )
    dense, first = sizes[:2]
    assert dense > limit and 0.95 * limit <= first <= 1.03 * limit, sizes
    assert plan.costs["pruned"]["size"] <= limit
