"""Budgets on exported files: trained networks keep them, and few networks need to be exported."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import reconvene as rc
from reconvene.deploy.quantisation import Quantisation
from reconvene.deploy.runtimes.registry import format_named
from reconvene.deploy.writing import write_model
from reconvene.models import resolve_address
from reconvene.planning.measuring.runtime_costs import ExportedSize
from reconvene.planning.measuring.trained_values import with_trained_values
from support.formats import require_format

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


def _train(model: nn.Module) -> nn.Module:
    """Two steps on noise: no tensor stays as it was drawn."""
    generator = torch.Generator().manual_seed(1)
    optimizer = torch.optim.SGD(model.train().parameters(), lr=0.01, momentum=0.9)
    for _ in range(2):
        optimizer.zero_grad()
        labels = torch.randint(0, 10, (8,), generator=generator)
        nn.functional.cross_entropy(model(torch.rand(8, 3, 32, 32, generator=generator)), labels).backward()
        optimizer.step()
    return model.eval()


@pytest.mark.parametrize(
    ("form", "precision", "limit"),
    [
        ("onnx", "fp32", 16_000),
        ("onnx", "int8", 20_000),
        pytest.param("openvino", "fp32", 78_000, marks=pytest.mark.slow),
        pytest.param("openvino", "int8", 107_000, marks=pytest.mark.slow),
        pytest.param("executorch", "fp32", 25_000, marks=pytest.mark.slow),
        pytest.param("ncnn", "fp32", 15_000, marks=pytest.mark.slow),
    ],
)
def test_the_file_of_the_trained_network_keeps_the_limit_and_uses_it(
    tmp_path: Path, form: str, precision: str, limit: int
) -> None:
    require_format(form)
    inputs = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    budget = rc.Budget(size=limit)
    model = resolve_address("resnet8", {"width": 0.25}).build()
    small = rc.prune(model, inputs, budget, size_of=[form], precision=precision, round_to=1)
    runtime = format_named(form)
    calibration = Quantisation(torch.rand(16, 3, 32, 32)) if precision == "int8" else None
    files = write_model(runtime, _train(small), inputs, tmp_path / f"model{runtime.suffix}", calibration)
    assert 0.9 * limit <= sum(file.stat().st_size for file in files) <= limit


def test_networks_are_weighed_with_other_values_and_stay_as_they_are() -> None:
    model = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16), 2)  # layers begin as copies of one
    model.register_buffer("mask", torch.zeros(4))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    first, second = with_trained_values(model), with_trained_values(model)
    seen: set[bytes] = set()
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, second.state_dict()[name]) and torch.equal(model.state_dict()[name], before[name])
        assert (tensor - before[name]).abs().max() <= 0.011 * before[name].abs().max().clamp(min=1)
        if name != "mask":
            seen.add(tensor.numpy().tobytes())
    assert torch.equal(first.mask, before["mask"]) and len(seen) == len(before) - 1
