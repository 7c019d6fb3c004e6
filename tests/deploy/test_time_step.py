"""Spiking networks as files: all time steps unrolled, or one step whose state goes in and comes out; any batch."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import reconvene as rc
from reconvene.deploy.exporter import run_file
from reconvene.deploy.time_step import one_step
from reconvene.models.spiking import LeakyNeuron, SpikingNetwork

X = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))


class Net(SpikingNetwork):
    """Three time steps."""

    def __init__(self) -> None:
        super().__init__(3)
        self.conv, self.norm, self.fire1 = nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), LeakyNeuron(channels=8, threshold=0.5)
        self.middle, self.fire2, self.head = nn.Conv2d(8, 6, 3), LeakyNeuron(threshold=0.3), nn.Linear(6, 4)

    def step(self, x: Tensor) -> Tensor:
        h = self.fire2(self.middle(self.fire1(self.norm(self.conv(x)))))
        return self.head(h.mean((2, 3)))


def built() -> Net:
    torch.manual_seed(0)
    return Net().eval()


FORMATS = ["onnx", pytest.param("openvino", marks=pytest.mark.slow), pytest.param("executorch", marks=pytest.mark.slow)]


@pytest.mark.parametrize("file_format", FORMATS)
def test_unrolled_and_step_by_step_a_file_computes_what_the_network_does(file_format: str, tmp_path: Path) -> None:
    pytest.importorskip({"onnx": "onnxruntime"}.get(file_format, file_format))
    model = built()
    small = rc.prune(model, X, rc.Budget(params="2x"), rectify="keep")
    unrolled = rc.export(small, tmp_path, format=file_format, example_inputs=X)
    stepped = rc.export(small, tmp_path, format=file_format, example_inputs=X, state="carried")
    assert stepped.path.name.startswith("model.step.") and unrolled.path.name.startswith("model.")
    batches = (1, 2, 5) if unrolled.batch is None else (1,)
    for batch in batches:
        x = torch.randn(batch, 1, 8, 8, generator=torch.Generator().manual_seed(batch))
        with torch.no_grad():
            expected = small(x)
        assert torch.allclose(run_file(unrolled.path, x)["output"], expected, atol=1e-5)
        state = {name: tensor for name, tensor in one_step(small, x)[1].items() if name != "x"}
        assert set(state) == {"fire1.membrane", "fire2.membrane"}
        total = torch.zeros(batch, 4)
        for _ in range(3):
            # files without names give outputs in order: the network's, then the next state
            output, *after = run_file(stepped.path, {"x": x, **state}).values()
            total, state = total + output, dict(zip(state, after, strict=True))
        assert torch.allclose(total / 3, expected, atol=1e-5) and expected.std() > 0


def test_bytes_do_not_depend_on_what_was_run_before(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    model = built()
    fresh = rc.export(model, tmp_path, example_inputs=X, name="fresh", verify=False).path.read_bytes()
    model.train()
    for _ in range(3):  # steps of training whose learning rate is zero, but for the norm's statistics
        model(X).square().mean().backward()
    model.zero_grad()
    model.norm.reset_running_stats()
    model.eval()
    model.reset()
    model.step(torch.cat([X, X, X, X[:1]]))  # an odd batch, and membranes of it
    used = rc.export(model, tmp_path, example_inputs=X, name="used", verify=False).path.read_bytes()
    assert fresh == used


def test_a_network_without_state_to_carry_is_refused(tmp_path: Path) -> None:
    plain = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU())
    for model, words in ((plain, "has no state"), (WithoutStep(), "begins afresh in every call")):
        with pytest.raises(rc.ReconveneError, match=words):
            rc.export(model.eval(), tmp_path, example_inputs=X, state="carried")
    with pytest.raises(rc.ReconveneError, match="Formats: executorch, onnx, openvino"):
        rc.export(built(), tmp_path, format="ncnn", example_inputs=X, state="carried")
    with pytest.raises(rc.ReconveneError, match="Available"):
        rc.export(built(), tmp_path, example_inputs=X, state="kept")


class WithoutStep(nn.Module):
    """Its loop over time is in ``forward``, which resets."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fire = nn.Conv2d(1, 4, 3), LeakyNeuron()

    def forward(self, x: Tensor) -> Tensor:
        self.fire.reset()
        return self.fire(self.conv(x)) + self.fire(self.conv(x))
