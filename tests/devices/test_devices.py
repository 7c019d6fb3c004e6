"""Devices: probes run in the real runtime; predictions are exact where costs are known; budgets on latency are kept."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import reconvene as rc
from reconvene import cli, devices, models
from reconvene.devices import latency_cost
from reconvene.devices.latency_model import Clock
from reconvene.devices.lookup_table import LatencyTable
from reconvene.devices.on_device import bench, probe
from reconvene.devices.on_device.facts import describe_layer
from reconvene.devices.on_device.layer_spec import LayerJob, LayerSpec, MeasuredLayer
from reconvene.devices.on_device.layers import chain
from reconvene.devices.on_device.sample_widths import width_pairs
from reconvene.devices.on_device.sessions import SLOW
from reconvene.devices.operators import ACTIVATIONS
from reconvene.errors import BudgetError, DeviceError
from reconvene.planning.feedback import _ATTEMPTS
from reconvene.planning.measuring import runtime_costs
from reconvene.planning.measuring.networks import networks_to_time
from reconvene.planning.pruning import plan_with
from reconvene.planning.session import Planner
from reconvene.planning.target import Target
from reconvene.structure import Structure, analyse
from reconvene.surgery.operations.forms import forms
from reconvene.utils.progress import notes_to
from support import device_fakes as fakes
from support.mini_resnet import mini_resnet

IMAGE = torch.randn(1, 3, 32, 32)


@pytest.fixture(autouse=True)
def homes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    # Other tests work beside these: waiting until the machine is at rest would take minutes, and gain nothing here.
    for constant, seconds in {"PATIENCE": 2.0, "BRIEFLY": 0.5, "LEARNING": 0.5}.items():
        monkeypatch.setattr(probe, constant, seconds)


CONVOLUTION = LayerSpec(
    "conv",
    kernel=(3, 3),
    stride=(1, 1),
    pads=(1,) * 4,
    dilation=(1, 1),
    spatial=(8, 8),
    spatial_out=(8, 8),
    tail=("relu",),
)


def convolution(**changes: Any) -> LayerSpec:
    return dataclasses.replace(CONVOLUTION, **changes)


def job(into: int = 8, out: int = 8, **changes: Any) -> LayerJob:
    return LayerJob(convolution(**changes), into, out)


def operator(name: str, **changes: Any) -> LayerSpec:
    window = {"kernel": (2, 2), "stride": (2, 2), "pads": (0,) * 4} if name.endswith("pool") else {}
    return LayerSpec("op", name, **{"spatial": (8, 8), **window, **changes})


LAST = {"softmax", "layer_norm", "gelu"}  # operations that have channels last
ON_TOKENS = {step for form in forms().values() if LAST & {*form.operations} for step in form.steps}
KINDS = [
    convolution(),
    convolution(tail=("add", "relu")),
    convolution(kind="depthwise", groups=0, stride=(2, 2), tail=("clip",)),
    convolution(groups=2),
    convolution(kind="conv_transpose", kernel=(2, 2), pads=(0,) * 4, stride=(2, 2), tail=()),
    convolution(is_first=True),
    convolution(kernel=(3,), stride=(1,), pads=(1, 1), dilation=(1,), spatial=(16,), spatial_out=(16,)),
    LayerSpec("linear", batch=2),
    LayerSpec("matmul", spatial=(2, 4, 8, 4), vary="k"),
    *(convolution(tail=(name,)) for name in sorted(set(ACTIVATIONS.values()))),
    *(operator(op) for op in ("add", "mul", "max_pool", "average_pool", "global_pool", "scale", "copy", "concat")),
    *(operator(op) for op in ("resize", "batch_norm", "softmax")),
    operator("layer_norm", spatial=(4,), axis=-1),
    *(operator(step, spatial=(4,), axis=-1) for step in sorted(ON_TOKENS)),
]


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_every_kind_of_layer_runs_in_the_runtime_and_is_timed(precision: str) -> None:
    timed = bench.LayerBench(1, precision)
    for spec in KINDS:
        pairs = [(3, 8), (3, 16)] if spec.is_first else [(8, 8), (8, 16)]
        if spec.kind == "depthwise":
            pairs = [(8, 8), (16, 16)]
        for runs in timed.time(spec, pairs):
            assert runs.shape == (bench.RUNS,) and (runs >= 0).all(), spec


def test_the_bytes_are_an_onnx_model_as_onnx_reads_it() -> None:
    onnx = pytest.importorskip("onnx")
    graph = bench.Graph()
    bench.build(graph, convolution(tail=("clip",)), [(8, 12)])
    found = onnx.load_from_string(graph.to_bytes()).graph
    layer = next(node for node in found.node if node.name == "p0_conv")
    attributes = {a.name: onnx.helper.get_attribute_value(a) for a in layer.attribute}
    assert attributes["pads"] == [1, 1, 1, 1] and attributes["group"] == 1
    weight = next(onnx.numpy_helper.to_array(t) for t in found.initializer if t.name == layer.input[1])
    assert weight.shape == (12, 8, 3, 3) and 0.01 < weight.std() < 0.1


def test_a_measured_profile_survives_its_file_and_says_what_it_was_measured_on(tmp_path: Path) -> None:
    made = devices.measure_device([job(), job(kind="depthwise", groups=0)], far=1 << 20, name="bench")
    devices.save_profile(made, tmp_path / "p.json")
    again = devices.find(tmp_path / "p.json")
    assert again.to_dict() == made.to_dict()
    assert again.matches(devices.measuring_conditions()) and not again.matches(devices.measuring_conditions(threads=2))
    assert str(made.runtime["version"]) in str(again) and "noise" in str(again)


@pytest.mark.parametrize(
    "written",
    [
        '{"kind": "conv", "kernel": [3, 3], "stride": [1, 1], "pads": [1, 1, 1, 1], "dilation": [1, 1], "groups": 1, '
        '"spatial": [8, 8], "batch": 1, "tail": ["add", "relu"], "first": false, "spatial_out": [8, 8], ',
        '{"kind": "depthwise", "kernel": [3], "stride": [2], "pads": [1, 1], "dilation": [1], "groups": 0, '
        '"spatial": [8], "batch": 1, "tail": [], "first": true, ',
        '{"kind": "linear", "batch": 2, "spatial": [], "groups": 1, "tail": ["relu"], ',
        '{"kind": "matmul", "batch": 1, "spatial": [2, 4, 8, 4], "vary": "k", "groups": 1, ',
        '{"kind": "op", "op": "softmax", "batch": 1, "spatial": [4], "axis": -1, "groups": 1, ',
        '{"kernel": [2, 2], "stride": [2, 2], "pads": [0, 0, 0, 0], "kind": "op", "op": "max_pool", "batch": 1, '
        '"spatial": [8, 8], "axis": 1, "groups": 1, ',
    ],
)
def test_layers_are_read_from_and_written_as_the_json_of_profiles_measured_before(written: str) -> None:
    written += '"in": 8, "out": 8, "points": [[8, 8, 1e-06], [16, 8, 1]], "far": []}'
    layer = MeasuredLayer.from_dict(json.loads(written))
    assert json.dumps(layer.to_dict()) == written
    assert LayerJob.from_dict(json.loads(written)).spec == layer.spec == LayerSpec.from_dict(layer.spec.to_dict())


@pytest.mark.slow
def test_what_this_machine_measured_once_is_not_measured_again(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    with notes_to(said.append):
        first = devices.here([job()], far=1)
    before = len(said)
    with notes_to(said.append):
        assert devices.here([job()], far=1).layers == first.layers
    assert len(said) == before > 0
    monkeypatch.setattr(probe, "profile", None)  # measuring anything now would fail
    assert devices.here([job()], far=1).layers == first.layers


def test_a_budget_that_cannot_be_kept_is_measured_or_refused_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "taken").write_text("")
    for variable in ("XDG_CACHE_HOME", "XDG_DATA_HOME"):
        monkeypatch.setenv(variable, str(tmp_path / "taken"))
    said: list[str] = []
    with notes_to(said.append):
        assert devices.here([job()], far=1).layers
    assert "and again the next time, since nothing can be kept in" in said[0] and "is not a folder" in said[0]
    monkeypatch.setattr(probe, "profile", None)  # measuring anything now would fail
    assert cli.main(["device", "profile", "--name", "pi4"]) == 1
    assert "pi4.json cannot be written: " in capfd.readouterr().err


def test_a_probe_refuses_jobs_and_outputs_before_it_measures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(probe, "profile", None)  # measuring anything now would fail
    contents = {"empty": "{}", "damaged": "[", "other": '{"jobs": [{"kind": "nothing"}]}'}
    for name, text in contents.items():
        (tmp_path / name).write_text(text)
    for name in [*contents, "missing"]:
        with pytest.raises(SystemExit, match="2"):
            probe.main([str(tmp_path / name), "-o", str(tmp_path / "pi4.json")])
        assert f"{name} is no list of layers to measure" in capfd.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        probe.main(["-o", "/proc/pi4.json"])
    assert "/proc/pi4.json cannot be written" in capfd.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(contents)


def test_a_probe_goes_into_a_folder_that_is_made(tmp_path: Path) -> None:
    to = tmp_path / "new" / "probe.pyz"
    assert devices.write_probe_bundle(to, [job()], threads=1, precision="fp32", far=1).is_file()
    with pytest.raises(DeviceError, match="cannot make the folder"):
        devices.write_probe_bundle(to / "in" / "probe.pyz", [job()], threads=1, precision="fp32", far=1)


def test_a_layer_is_measured_again_where_the_device_was_disturbed() -> None:
    """Three jobs on a device that is half as fast from just before the second one's end until all had their turn."""
    readings, asked = iter([1.0, 1.0, 1.0, 2.0, 1.9, 1.9, 1.1, 1.05, 1.0, 1.05]), []

    class Pace:
        best = float("inf")

        def now(self) -> float:
            found = next(readings)
            self.best, self.last = min(self.best, found), found
            return found

        def wait(self, patience: float) -> float:
            assert (patience > 0) == (len(asked) >= 3), "only what is measured again waits"
            self.now()
            return 0.0

    class Bench:
        times = iter([[5.0, 7.0], [8.0, 9.0], [6.0, 6.0], [4.0, 9.5], [3.0, 3.5]])

        def measure(self, job: LayerJob, steps: object, far: int) -> MeasuredLayer:
            asked.append(job.in_width)
            points = tuple((8, out, seconds) for out, seconds in zip((8, 16), next(self.times), strict=True))
            return MeasuredLayer(job.spec, job.in_width, job.out_width, points)

    said: list[str] = []
    jobs = [job(width) for width in (8, 16, 24)]
    found, noise = probe.measured_jobs(  # type: ignore[arg-type]
        Bench(), Pace(), jobs, {}, 0, lambda done, total, text: said.append(text)
    )
    assert asked == [8, 16, 24, 16, 24]
    assert [line.endswith(", again") for line in said] == [False, False, False, True, True]
    assert [layer.points for layer in found] == [((8, 8, a), (8, 16, b)) for a, b in ((5, 7), (4, 9), (3, 3.5))]
    assert noise == pytest.approx(np.quantile([1.0, 1.1, 1.05], 0.9) - 1)


def test_a_device_that_is_never_at_rest_is_not_measured_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    paces = iter(np.linspace(1, 9, 99))
    pace = probe.reference(1, best=1.0)
    monkeypatch.setattr(pace, "now", lambda: next(paces))
    monkeypatch.setattr(probe, "PATIENCE", 0.0)
    timed, calls = bench.LayerBench(1, "fp32"), []
    layer = MeasuredLayer(CONVOLUTION, 8, 8, ((8, 8, 1.0),))
    monkeypatch.setattr(timed, "measure", lambda *asked: calls.append(asked) or layer)
    _, noise = probe.measured_jobs(timed, pace, [job()] * 3, {}, 0, lambda done, total, text: None)
    assert len(calls) <= 3 * probe.TRIES and noise > SLOW - 1


@pytest.mark.slow
def test_the_bundle_measures_where_reconvene_is_not_installed(tmp_path: Path) -> None:
    networks = [([[0, 8, 8], [0, 8, 4]], chain(2).to_bytes()), ([[0, 8, 8]], chain(1).to_bytes())]
    devices.write_probe_bundle(tmp_path / "probe.pyz", [job()], threads=1, precision="fp32", far=1, networks=networks)
    blocked = tmp_path / "blocked"
    blocked.mkdir()
    for name in ("reconvene", "torch", "onnx"):
        (blocked / f"{name}.py").write_text(f"raise ImportError('{name} is not on this device')")
    command = [sys.executable, str(tmp_path / "probe.pyz"), "-o", str(tmp_path / "pi4.json")]
    subprocess.run(command, check=True, env={**os.environ, "PYTHONPATH": str(blocked)}, capture_output=True)
    found = devices.find(tmp_path / "pi4.json")
    assert found.name == "pi4" and [layer.spec for layer in found.layers] == [CONVOLUTION]
    assert [network["layers"] for network in found.networks] == [own for own, _ in networks]
    assert found.networks[0]["seconds"] > found.networks[1]["seconds"] > 0


# ---- prediction ----


def by_hand(structure: Structure, widths: np.ndarray) -> float:
    """The fake device's cost of VGG: every layer read off the network's own description."""
    total, into = 5e-6, 3
    spatial = iter(devices.sites(structure))
    for site in spatial:
        total += 1e-6
        if site.spec.kind == "conv":
            out = int(widths[[g.name for g in structure.prunable].index(site.owner)])
            total += fakes.cost(site.spec, into, out)
            into = out
        else:
            total += fakes.cost(site.spec, into, 10)
    return total


@pytest.mark.parametrize("seed", range(8))
def test_where_costs_are_known_the_prediction_is_exact(seed: int) -> None:
    model = models.resolve_address("vgg16_bn", {}).build()
    structure, profile = fakes.of(model, IMAGE)
    rng = np.random.default_rng(seed)
    widths = np.maximum(1, (structure.widths * rng.uniform(0.02, 1, len(structure.widths))).astype(np.int64) // 4 * 4)
    widths = np.maximum(widths, 4)
    predictor = devices.Predictor(structure, profile)
    assert predictor.seconds(widths) == pytest.approx(by_hand(structure, widths), rel=1e-6)
    assert predictor.floor(widths) == pytest.approx(predictor.seconds(widths))
    rows = predictor.breakdown(widths)
    overhead = 5e-6 + 1e-6 * len(rows)
    assert sum(row.seconds for row in rows) + overhead == pytest.approx(predictor.seconds(widths))


def test_unaligned_widths_cost_more_and_the_solver_sees_a_cost_that_never_falls() -> None:
    structure, profile = fakes.of(models.resolve_address("vgg16_bn", {}).build(), IMAGE)
    predictor = devices.Predictor(structure, profile)
    odd = structure.widths - 2
    assert predictor.seconds(odd) > 2 * predictor.floor(odd)
    rng = np.random.default_rng(0)
    for _ in range(30):
        widths = rng.integers(1, structure.widths + 1)
        wider = np.minimum(widths + rng.integers(0, 20, len(widths)), structure.widths)
        assert predictor.floor(wider) >= predictor.floor(widths)


def test_weights_that_come_from_far_away_cost_more() -> None:
    structure, near = fakes.of(models.resolve_address("vgg16_bn", {}).build(), IMAGE)
    far = fakes.profile(devices.jobs(devices.sites(structure)), far=1e-11)
    slow, fast = (devices.Predictor(structure, p) for p in (far, near))
    narrow = np.full_like(structure.widths, 16)
    assert slow.seconds(structure.widths) > fast.seconds(structure.widths) * 1.01
    assert slow.seconds(narrow) == pytest.approx(fast.seconds(narrow))


@pytest.mark.slow
def test_whole_networks_correct_the_sum_of_layers_and_longer_networks_stay_longer() -> None:
    model = models.resolve_address("resnet20", {"width": 0.5}).build()
    structure, plain = fakes.of(model, IMAGE)
    made = networks_to_time(model, IMAGE, structure)
    small = [structure.widths, np.full_like(structure.widths, 8), np.minimum(structure.widths, 4)]
    small = [np.array(widths) for widths in {tuple(widths) for widths in small}]
    sums = devices.Predictor(structure, plain)
    channels = devices.ChannelCounts(structure, sums.sites)
    numbers = {layer.spec: number for number, layer in enumerate(plain.layers)}
    factors = {tuple(widths): factor for widths, factor in zip(small, (1.3, 0.8, 1.1), strict=True)}
    networks = [
        {
            "layers": [[numbers[s.spec], int(a), int(b)] for s, a, b in zip(sums.sites, *channels.at(w), strict=True)],
            "seconds": factors[tuple(w)] * sums.seconds(w),
        }
        for w in small
    ]
    assert made[0][0] == [
        [numbers[s.spec], int(a), int(b)] for s, a, b in zip(sums.sites, *channels.at(structure.widths), strict=True)
    ]
    predictor = devices.Predictor(structure, dataclasses.replace(plain, networks=networks))
    by_length = sorted(small, key=sums.seconds)
    found = [predictor.seconds(widths) for widths in by_length]
    taken = np.maximum.accumulate([factors[tuple(w)] * sums.seconds(w) for w in by_length])
    np.testing.assert_allclose(found, taken, rtol=1e-9)
    rng = np.random.default_rng(0)
    pairs = [tuple(rng.integers(1, structure.widths + 1) for _ in range(2)) for _ in range(40)]
    for one, other in pairs:
        assert (sums.floor(one) <= sums.floor(other)) == (predictor.floor(one) <= predictor.floor(other))
    rows = predictor.breakdown(by_length[0])
    assert sum(row.seconds for row in rows) < predictor.seconds(by_length[0]) < 2 * sum(row.seconds for row in rows)


def test_networks_to_time_are_the_model_at_even_widths_as_files_that_run() -> None:
    ort = pytest.importorskip("onnxruntime")
    model = mini_resnet()
    structure = analyse(model, IMAGE)
    made, sites = networks_to_time(model, IMAGE, structure), devices.sites(structure)
    assert len(made) == 4, "dense, half and so on; 16 channels go no lower than 8"
    for layers, file in made:
        session = ort.InferenceSession(file, providers=["CPUExecutionProvider"])
        assert session.run(None, {session.get_inputs()[0].name: IMAGE.numpy()})[0].shape == (1, 10)
        convolutions = [(s.spec, a, b) for s, (_, a, b) in zip(sites, layers, strict=True) if s.spec.kind == "conv"]
        weights = sum(int(np.prod(spec.kernel)) * into * out for spec, into, out in convolutions)
        assert 4 * weights < len(file) < 4 * weights + 100_000
    said: list[str] = []
    with notes_to(said.append):
        assert len(networks_to_time(model, IMAGE, structure, largest=200_000)) == 3
    assert "1 of its widths is not timed" in said[0]


def test_a_layer_of_another_size_is_predicted_between_those_measured_and_one_of_another_kind_is_refused() -> None:
    model = models.resolve_address("vgg16_bn", {}).build()
    structure = analyse(model, IMAGE, trial=False)
    sizes = [job(64, 64, spatial=(size, size)) for size in (4, 16)]
    profile = fakes.profile(sizes)
    small, large = profile.layers
    slower = dataclasses.replace(large, points=tuple((a, b, 16 * seconds) for a, b, seconds in large.points))
    profile = dataclasses.replace(profile, layers=(small, slower))
    low, between, high = (
        profile.tables([each])[each.spec].seconds(64, 64) for each in (sizes[0], job(64, 64), sizes[1])
    )
    assert low < between < high
    with pytest.raises(DeviceError, match="reconvene device profile MODEL"):
        devices.Predictor(structure, profile)


def test_a_table_keeps_its_points_and_goes_up_in_whole_blocks() -> None:
    points = tuple((a, b, fakes.cost(CONVOLUTION, a, b)) for a, b in width_pairs(job(64, 256), fakes.STEPS))
    table = LatencyTable.of(MeasuredLayer(CONVOLUTION, 64, 256, points), fakes.STEPS)
    for into, out, seconds in points:
        assert table.seconds(into, out) == pytest.approx(seconds, rel=1e-9)
    assert table.seconds(33, 17) > table.seconds(36, 17), "33 is not a multiple of 4"
    assert table.seconds(36, 17) == pytest.approx(table.seconds(48, 32))


def test_a_layer_that_is_slower_below_one_block_does_not_make_the_next_one_slow() -> None:
    layer = job(64, 64)
    slow = {4: 3e-5, 8: 4e-5}  # the runtime leaves its own layout for them
    points = tuple((a, b, slow.get(a, fakes.cost(CONVOLUTION, a, b))) for a, b in width_pairs(layer, fakes.STEPS))
    measured = MeasuredLayer(CONVOLUTION, 64, 64, points)
    table = LatencyTable.of(measured, fakes.STEPS)
    assert table.seconds(16, 64) == pytest.approx(fakes.cost(CONVOLUTION, 16, 64))
    assert table.seconds(8, 64) == pytest.approx(4e-5)
    clock = Clock(dataclasses.replace(fakes.profile([layer]), layers=[measured]), [CONVOLUTION], [(64, 64)])
    out = np.array([64])
    floor, exact = (
        np.array([clock.times(np.array([width]), out, exact=way)[0] for width in range(1, 65)]) for way in (False, True)
    )
    assert (np.diff(floor) >= 0).all() and (floor <= exact + 1e-12).all()
    assert exact[7] == pytest.approx(4e-5) and exact[15] == pytest.approx(fakes.cost(CONVOLUTION, 16, 64))
    assert floor[7] <= exact[15]


# ---- budgets ----


@pytest.mark.parametrize("times", ["1.5x", "3x", "8x"])
def test_a_latency_budget_is_kept_on_a_device_that_is_elsewhere_and_used(times: str) -> None:
    model = models.resolve_address("vgg16_bn", {}).build()
    structure, profile = fakes.of(model, IMAGE)
    plan = rc.plan(model, IMAGE, rc.Budget(latency=times), "magnitude", device=profile)
    limit = plan.limits["latency"]
    widths = np.array([row.width for row in plan.rows])
    assert 0.9 * limit <= plan.costs["pruned"]["latency"] <= limit
    assert plan.costs["pruned"]["latency"] == pytest.approx(by_hand(structure, widths))
    assert all(row.width % 16 == 0 for row in plan.rows), "widths stand on the device's steps"


def test_latency_falls_with_the_budget_and_both_budgets_hold() -> None:
    model = models.resolve_address("resnet20", {}).build()
    _, profile = fakes.of(model, IMAGE)
    planner = Planner(model, IMAGE, "magnitude", density=0.1)
    found = []
    for share in (0.8, 0.6, 0.4, 0.3):
        plan = plan_with(planner, rc.Budget(latency=share, params="3x"), target=Target(profile))
        assert plan.costs["pruned"]["params"] <= plan.limits["params"]
        found.append(plan.costs["pruned"]["latency"])
    assert found == sorted(found, reverse=True)


def test_a_latency_below_the_floor_is_refused_with_the_floor() -> None:
    model = models.resolve_address("vgg16_bn", {}).build()
    _, profile = fakes.of(model, IMAGE)
    with pytest.raises(BudgetError, match=r"the floor is .* ms") as caught:
        rc.plan(model, IMAGE, rc.Budget(latency="1us"), "magnitude", device=profile)
    assert caught.value.floor["latency"] > 1e-6


def test_a_latency_measured_on_this_machine_is_kept(tmp_path: Path) -> None:
    model = nn.Sequential(
        *(nn.Conv2d(3, 64, 3, padding=1), nn.ReLU(), nn.Conv2d(64, 64, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(64, 64, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10)),
    )
    said: list[str] = []
    with notes_to(said.append):
        plan = rc.plan(model, IMAGE, rc.Budget(latency="2x"), "magnitude")
    assert plan.costs["pruned"]["latency"] <= plan.limits["latency"]
    assert plan.conditions["latency"].startswith("measured on")
    assert said[0].startswith("measuring") and "kept in" in said[0]
    assert json.loads(plan.to_json())["budget"] == {"latency": "2x"}


# ---- trouble ----


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("{}", "not a device profile"),
        ("[1", "not JSON"),
        (json.dumps({"format": probe.FORMAT, "version": 99}), "version 99"),
        (json.dumps({"format": probe.FORMAT, "version": 1, "layers": []}), "is missing"),
        (json.dumps({"format": probe.FORMAT, "version": 1, "runtime": {"name": "tflite"}}), "measured in tflite"),
    ],
)
def test_a_bad_profile_is_refused(tmp_path: Path, text: str, why: str) -> None:
    (tmp_path / "p.json").write_text(text)
    with pytest.raises(DeviceError, match=why):
        devices.find(tmp_path / "p.json")


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"runtime": {"name": "onnxruntime", "version": "1"}}, "threads"),
        (
            {"runtime": {"name": "onnxruntime", "version": "1", "threads": -3}},
            "runtime.threads: expected at least 1, got -3",
        ),
        ({"device": None}, "device: expected names and values, got null"),
        ({"steps": {"in": 8, "out": 0, "align": 1}}, "steps.out: expected at least 1, got 0"),
        ({"overhead": {}}, "call"),
        ({"networks": [{"layers": [[7, 8, 8]], "seconds": 1.0}]}, r"networks\.0\.layers: some of them are not there"),
        ({"networks": [{}]}, "layers"),
        ({"precision": "fp16"}, "precision: expected 'fp32' or 'int8', got text 'fp16'"),
        ({"noise": "high"}, "noise: expected .* number, got text 'high'"),
        ({"name": 5}, "name: expected text, got 5"),
    ],
    ids=str,
)
def test_the_error_for_a_damaged_profile_names_it(tmp_path: Path, change: dict[str, object], why: str) -> None:
    values = {**fakes.profile([job()]).to_dict(), **change}
    (tmp_path / "p.json").write_text(json.dumps(values))
    with pytest.raises(DeviceError, match=why) as told:
        devices.find(tmp_path / "p.json")
    assert "p.json" in str(told.value)


@pytest.mark.parametrize("seconds", [float("nan"), -1e-6])
def test_times_that_are_none_are_damage(seconds: float) -> None:
    values = json.loads(json.dumps(fakes.profile([job()]).to_dict()))
    values["layers"][0]["points"][0][2] = seconds
    with pytest.raises(DeviceError, match=r"points\.0\.2: expected at least 0|not JSON compliant"):
        devices.Profile.from_dict(values)


@pytest.mark.parametrize(("place", "why"), [("folder", "it is a folder"), ("file/p.json", "is not a folder")])
def test_an_output_that_cannot_be_written_is_reported_before_any_measurement(
    tmp_path: Path, place: str, why: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(probe, "profile", None)  # measuring anything would fail
    for option in ("--output", "--bundle"):
        assert cli.main(["device", "profile", option, str(tmp_path / place)]) == 1
        assert why in capsys.readouterr().err
    assert cli.main(["device", "profile", "--name", ""]) == 2


def test_one_bad_file_does_not_hide_the_other_profiles() -> None:
    folder = devices.store.named_folder()
    devices.save_profile(fakes.profile([job()]), folder / "good.json")
    (folder / "bad.json").write_text("{")
    found, wrong = devices.profiles()
    assert [file.stem for file, _ in found] == ["good"] and len(wrong) == 1 and "bad.json" in wrong[0]


@pytest.fixture
def timed(monkeypatch: pytest.MonkeyPatch) -> tuple[nn.Module, list[int]]:
    """A model on this machine, where a network takes as long as the root of its parameters; whose were timed."""
    model, sizes = models.resolve_address("vgg16_bn", {"width": 0.25}).build(), []
    _, profile = fakes.of(model, IMAGE)
    own = {"device": profile.device, "runtime": profile.runtime, "precision": "fp32"}
    monkeypatch.setattr(devices, "measuring_conditions", lambda threads, precision: own)
    monkeypatch.setattr(devices, "here", lambda jobs, **options: profile)

    def inference(network: nn.Module, inputs: torch.Tensor, **options: object) -> float:
        sizes.append(sum(parameter.numel() for parameter in network.parameters()))
        return 1e-6 * sizes[-1] ** 0.5

    monkeypatch.setattr(runtime_costs, "measure_latency", inference)
    return model, sizes


def test_a_limit_that_the_dense_network_keeps_leaves_it_whole(timed: tuple[nn.Module, list[int]]) -> None:
    model, sizes = timed
    for asked in ("100%", "1x", "5s"):
        plan = rc.plan(model, IMAGE, rc.Budget(latency=asked), "magnitude")
        assert all(row.width == row.dense for row in plan.rows)
        assert plan.costs["pruned"]["latency"] == plan.costs["dense"]["latency"] <= plan.limits["latency"]
    assert len(sizes) == 3, "it was timed once each, to know what dense takes"


@pytest.mark.parametrize("asked", ["1.3x", "2x", "3x"])
def test_a_prediction_that_is_wrong_is_corrected_until_the_limit_is_used(
    timed: tuple[nn.Module, list[int]], asked: str
) -> None:
    model, sizes = timed
    plan = rc.plan(model, IMAGE, rc.Budget(latency=asked), "magnitude")
    assert 0.9 <= plan.costs["pruned"]["latency"] / plan.limits["latency"] <= 1
    assert 2 <= len(sizes) <= 1 + _ATTEMPTS and len(set(sizes)) == len(sizes), "no network is timed twice"


def test_without_a_budget_on_latency_a_device_still_says_what_it_would_be(monkeypatch: pytest.MonkeyPatch) -> None:
    model = models.resolve_address("vgg16_bn", {}).build()
    structure, profile = fakes.of(model, IMAGE)
    plan = rc.plan(model, IMAGE, rc.Budget(params="4x"), "magnitude", device=profile)
    widths = np.array([row.width for row in plan.rows])
    assert plan.costs["pruned"]["latency"] == pytest.approx(by_hand(structure, widths))
    assert plan.costs["dense"]["latency"] == pytest.approx(by_hand(structure, structure.widths))
    assert "latency" not in plan.limits and plan.conditions["latency"].startswith("predicted for a machine")
    assert all(row.width % 16 == 0 for row in plan.rows), "widths stand on the device's steps"
    monkeypatch.setattr(devices, "here", lambda jobs, **options: profile)
    assert rc.plan(model, IMAGE, rc.Budget(params="4x"), "magnitude", device="here").costs == plan.costs
    assert "latency" not in rc.plan(model, IMAGE, rc.Budget(params="4x"), "magnitude").costs["pruned"]


def test_a_missing_profile_and_an_unknown_name_say_so(tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match="cannot read the device profile"):
        devices.find(tmp_path / "none.json")
    devices.save_profile(dataclasses.replace(fakes.profile([job()])), devices.store.named_folder() / "pi4.json")
    assert devices.find("pi4").name == "fake"
    with pytest.raises(
        DeviceError, match=r"no device is called .pi5.\. Did you mean 'pi4'.*here, the file of a profile"
    ):
        devices.find("pi5")


def test_a_profile_of_an_older_runtime_predicts_with_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    model = models.resolve_address("resnet20", {}).build()
    _, profile = fakes.of(model, IMAGE)
    now = {"device": profile.device, "runtime": {**profile.runtime, "version": "9.9"}, "precision": "fp32"}
    monkeypatch.setattr(latency_cost, "measuring_conditions", lambda threads, precision: now)
    plan = rc.plan(model, IMAGE, rc.Budget(latency="2x"), "magnitude", device=profile)
    assert "has onnxruntime 9.9 now: measure it again" in plan.conditions["latency"]


def test_the_list_holds_profiles_and_no_other_files(capfd: pytest.CaptureFixture[str]) -> None:
    for far in (8 << 20, 64 << 20):
        own = dataclasses.replace(fakes.profile([job()]), name="this machine", far_bytes=far)
        devices.save_profile(own, devices.store.cache_folder() / f"{far}.json")
    assert cli.main(["device", "list"]) == 0
    said = capfd.readouterr().out
    assert " 8.00 MiB" in said and " 64.0 MiB" in said and f"{8 << 20}.json" in said
    for more in (["vgg16_bn"], ["-o", "x.json"], ["--threads", "2"], ["--precision", "int8"]):
        assert cli.main(["device", "list", *more]) == 2
    assert cli.main(["device", "profile", "--name", "here"]) == 2


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (LayerJob(operator("mean", spatial=()), 8, 1), "mean, up to 8 -> 1"),
        (job(stride=(2, 2)), "conv 3x3 stride 2 + relu at 8x8, up to 8 -> 8"),
    ],
)
def test_a_layer_is_named_without_what_it_has_not(made: LayerJob, said: str) -> None:
    assert describe_layer(made) == said
