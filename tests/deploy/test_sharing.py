"""Within ``shared_conversions`` a network becomes a graph once, and files are the same as without."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from reconvene import deploy
from reconvene.deploy.runtimes.onnx import runtime
from reconvene.deploy.sharing import shared_conversions
from reconvene.errors import ExportError

pytest.importorskip("onnx")
X = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 5)).eval()


@pytest.fixture
def conversions(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    models: list[object] = []
    exported = runtime._exported

    def count(model: nn.Module, *rest: object) -> object:
        models.append(model)
        return exported(model, *rest)

    monkeypatch.setattr(runtime, "_exported", count)
    return models


def test_float32_int8_and_the_stopwatch_begin_with_one_graph(conversions: list[object], tmp_path: Path) -> None:
    model, images = net(), [X]
    alone = deploy.export(model, tmp_path / "alone", example_inputs=X)
    alone8 = deploy.export(model, tmp_path / "alone", example_inputs=X, quantize="int8", calibration=images)
    assert len(conversions) == 2
    with shared_conversions():
        file = deploy.export(model, tmp_path, example_inputs=X)
        file8 = deploy.export(model, tmp_path, example_inputs=X, quantize="int8", calibration=images)
        deploy.time_variants({"dense": model}, X, runtimes=["onnxruntime"], repeats=2)
    assert len(conversions) == 3
    assert file.path.read_bytes() == alone.path.read_bytes() and file8.path.read_bytes() == alone8.path.read_bytes()


def test_another_network_batch_or_opset_is_converted_by_itself(conversions: list[object], tmp_path: Path) -> None:
    with shared_conversions():
        first = deploy.export(net(), tmp_path, example_inputs=X, name="a")
        other = net()
        with torch.no_grad():
            other[0].weight.mul_(2)
        second = deploy.export(other, tmp_path, example_inputs=X, name="b")
        deploy.export(other, tmp_path, example_inputs=X, name="c", batch="static")
        deploy.export(other, tmp_path, example_inputs=X, name="d", opset=18)
    assert len(conversions) == 4 and first.path.read_bytes() != second.path.read_bytes()
    deploy.export(other, tmp_path, example_inputs=X, name="e")
    assert len(conversions) == 5, "outside of the block nothing is kept"


def test_a_conversion_that_failed_leaves_room_for_the_next(tmp_path: Path) -> None:
    class Refused(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * 2 if x.sum().item() > 0 else x

    refused = Refused().eval()
    with shared_conversions():
        for _ in range(2):
            with pytest.raises(ExportError, match="Refused"):
                deploy.export(refused, tmp_path, example_inputs=X)
        assert deploy.export(net(), tmp_path, example_inputs=X).path.is_file()
