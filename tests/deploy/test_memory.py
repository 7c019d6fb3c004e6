"""Memory of activations: what is predicted is what runtimes plan, and budgets on it hold in the runtime itself."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

import reconvene as rc
from reconvene import devices
from reconvene.deploy import FORMATS
from reconvene.deploy.benchmark import measure_latency
from reconvene.deploy.memory import planned_memory
from reconvene.errors import BudgetError, DeviceError, UnknownNameError
from reconvene.planning.measuring import runtime_costs
from reconvene.structure import analyse

IMAGE = torch.randn(1, 3, 16, 16)
PIXELS = 16 * 16


def plain(first: int = 8, second: int = 16) -> nn.Sequential:
    return nn.Sequential(
        *(nn.Conv2d(3, first, 3, padding=1, bias=False), nn.BatchNorm2d(first), nn.ReLU()),
        *(nn.Conv2d(first, second, 3, padding=1, bias=False), nn.BatchNorm2d(second), nn.ReLU(inplace=True)),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(second, 10)),
    )


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.act = nn.Conv2d(3, 32, 3, padding=1), nn.ReLU()
        self.one, self.two = nn.Conv2d(32, 32, 3, padding=1), nn.Conv2d(32, 32, 3, padding=1)
        self.head = nn.Linear(32, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.act(self.stem(x))
        x = self.act(x + self.two(self.act(self.one(x))))
        return self.head(x.mean((2, 3)))


def held(model: nn.Module, plan: str, precision: str) -> float:
    structure = analyse(model.eval(), IMAGE, trial=False)
    return devices.Held(structure, FORMATS[plan].holds[precision]).bytes(structure.widths)


def test_what_is_alive_at_once_is_counted_as_by_hand() -> None:
    channels = PIXELS * 4
    assert held(plain(16, 32), "onnx", "fp32") == (16 + 32) * channels, "norm and activation take nothing of their own"
    structure = analyse(plain(8, 17).eval(), IMAGE, trial=False)
    blocks = devices.Held(structure, dataclasses.replace(FORMATS["onnx"].holds["fp32"], block=16))
    assert blocks.bytes(structure.widths) == (16 + 32) * channels, "channels in whole blocks"
    assert held(plain(), "onnx", "int8") == (8 + 16) * PIXELS
    assert held(plain(2, 2), "executorch", "int8") == (4 + 1) * 3 * PIXELS, "the input, and the int8 copy made of it"
    assert held(Residual(), "onnx", "fp32") == 2 * 32 * channels, "the sum is written over what is added"
    assert held(Residual(), "executorch", "int8") == 3 * 32 * PIXELS


def test_memory_never_falls_when_a_width_grows_and_equals_the_memory_of_the_smaller_network() -> None:
    structure = analyse(plain().eval(), IMAGE)
    memory = devices.Held(structure, FORMATS["onnx"].holds["int8"])
    rng = np.random.default_rng(0)
    for _ in range(20):
        widths = rng.integers(1, structure.widths + 1)
        wider = np.minimum(widths + rng.integers(0, 5, len(widths)), structure.widths)
        assert memory.bytes(wider) >= memory.bytes(widths)
        assert memory.bytes(widths) == held(plain(*(int(width) for width in widths)), "onnx", "int8")


@pytest.mark.parametrize("build", [plain, Residual])
def test_executorch_plans_in_float32_what_is_counted(build: type[nn.Module]) -> None:
    pytest.importorskip("executorch")
    model = build().eval()
    counted = rc.measure(model, IMAGE, latency=False).peak_memory
    assert counted <= planned_memory(model, IMAGE, plan="executorch") <= 1.05 * counted


def test_a_run_of_onnx_runtime_takes_what_is_predicted() -> None:
    for model in (plain(16, 32).eval(), Residual().eval()):  # a change of layout holds a copy
        predicted = held(model, "onnx", "fp32")
        assert predicted <= planned_memory(model, IMAGE, plan="onnx") <= 1.7 * predicted


def test_a_microcontroller_plans_no_less_in_int8_than_is_predicted() -> None:
    pytest.importorskip("tosa_serializer")  # what ExecuTorch's Cortex-M backend needs beside ExecuTorch
    for model in (plain().eval(), Residual().eval()):
        predicted = held(model, "executorch", "int8")
        assert predicted <= planned_memory(model, IMAGE, plan="executorch", precision="int8") <= 1.5 * predicted


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_budget_on_memory_holds_in_the_runtime_itself(precision: str) -> None:
    model = Residual()
    options = {"memory_of": "onnx", "precision": precision, "round_to": 1}
    made = rc.plan(model, IMAGE, rc.Budget(peak_memory="2x"), "magnitude", **options)
    small, limit = made.apply(model), made.limits["peak_memory"]
    found = planned_memory(small, IMAGE, plan="onnx", precision=precision)
    assert found == made.costs["pruned"]["peak_memory"] and 0.4 * limit <= found <= limit  # blocks are coarse here
    assert limit == planned_memory(model, IMAGE, plan="onnx", precision=precision) // 2
    assert f"as planned by onnx in {precision}" in made.conditions["peak_memory"]


def test_a_memory_that_no_widths_keep_is_refused_with_the_floor() -> None:
    with pytest.raises(BudgetError, match=r"at most 900 bytes, as planned by onnx in fp32.*floor") as caught:
        rc.plan(Residual(), IMAGE, rc.Budget(peak_memory=900), "magnitude", memory_of="onnx")
    assert caught.value.floor["peak_memory"] > 900


def test_unknown_names_are_refused_before_any_work() -> None:
    with pytest.raises(UnknownNameError, match="executorch"):
        rc.plan(nn.Identity(), IMAGE, rc.Budget(peak_memory="2x"), memory_of="tvm")
    with pytest.raises(UnknownNameError, match="int8"):
        rc.plan(nn.Identity(), IMAGE, rc.Budget(peak_memory="2x"), memory_of="onnx", precision="int4")
    with pytest.raises(UnknownNameError, match="onnx"):
        planned_memory(plain(), IMAGE, plan="tvm")


def test_size_is_about_the_int8_file_where_that_is_asked_for() -> None:
    model, limit = Residual(), 20_000
    options = {"size_of": ["onnx"], "precision": "int8", "round_to": 1}
    made = rc.plan(model, IMAGE, rc.Budget(size=limit), "magnitude", **options)
    assert 0.9 * limit <= made.costs["pruned"]["size"] <= limit < made.costs["dense"]["size"]


# ---- int8 latency ----


@pytest.fixture
def homes(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


@pytest.mark.slow
def test_a_latency_in_int8_is_predicted_and_timed_with_int8_networks(
    homes: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    image, timed = torch.randn(1, 3, 32, 32), []
    model = nn.Sequential(
        *(nn.Conv2d(3, 64, 3, padding=1), nn.ReLU(), nn.Conv2d(64, 64, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(64, 64, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10)),
    )

    def stopwatch(network: nn.Module, inputs: torch.Tensor, *, precision: str, threads: int, settled) -> float:
        assert measure_latency(network, inputs, precision=precision, threads=threads, repeats=1) > 0, "it runs in int8"
        timed.append((precision, sum(parameter.numel() for parameter in network.parameters())))
        return 1e-8 * timed[-1][1]  # as if time were parameters: a busy machine has no say in this test

    monkeypatch.setattr(runtime_costs, "measure_latency", stopwatch)
    made = rc.plan(model, image, rc.Budget(latency="1.5x"), "magnitude", precision="int8")
    assert {precision for precision, _ in timed} == {"int8"} and len(timed) >= 2
    assert made.costs["pruned"]["latency"] <= made.limits["latency"] == pytest.approx(1e-8 * timed[0][1] / 1.5)
    assert made.conditions["latency"].startswith("measured") and "int8" in made.conditions["latency"]


def test_a_profile_of_the_other_precision_is_refused() -> None:
    from support import device_fakes as fakes

    model = plain()
    _, profile = fakes.of(model, IMAGE)
    with pytest.raises(DeviceError, match="was measured in fp32, and int8 was asked for"):
        rc.plan(model, IMAGE, rc.Budget(latency="2x"), "magnitude", device=profile, precision="int8")
