"""Fleets: every device gets what keeps its budget, only what is missing is made, and no death of a worker loses it."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import reconvene as rc
from reconvene import artifact, cli, devices
from reconvene.costs import Budget, short_text
from reconvene.errors import BudgetError, FleetError
from reconvene.fleet import (
    Result,
    assignments,
    front,
    job,
    networks,
    portfolio,
    rank,
    read_fleet,
    run_fleet,
    write_page,
)
from reconvene.fleet.device_result import DeviceRow, mark_chosen
from reconvene.fleet.job import execute_job
from reconvene.fleet.landing import DONE, is_complete
from reconvene.models import resolve_address
from reconvene.planning.target import Target
from reconvene.tasks import task_named
from reconvene.utils import numbers
from reconvene.utils.locks import alone_in
from support import device_fakes as fakes
from support.paths import ROOT

FILE = """\
models: [resnet20, resnet8]
args: {width: 0.25}
criterion: magnitude
export: [onnx]
devices:
  server: {params: 2x, export: [onnx], models: [resnet20]}
  board: {latency: 1.2x, profile: board.json, models: [resnet20]}
  chip: {size: 40kB}
  dust: {params: 10, models: [resnet20]}
"""


# The server chooses between two networks; for the chip one is exported again and again until its file fits.
BUILT = FILE.replace("[onnx], models: [resnet20]}", "[onnx]}").replace("40kB}", "40kB, models: [resnet20]}")
ASKED = {"server": "params 2x", "board": "latency 1.2x", "chip": "size 40kB", "dust": "params 10"}


def board() -> devices.Profile:
    return fakes.of(resolve_address("resnet20", {"width": 0.25}).build(), torch.zeros(1, 3, 32, 32))[1]


def fleet_file(folder: Path, text: str = FILE) -> Path:
    devices.save_profile(board(), folder / "board.json")
    path = folder / "fleet.yaml"
    path.write_text(text)
    return path


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    folder = tmp_path_factory.mktemp("fleet")
    return folder, run_fleet(read_fleet(fleet_file(folder, BUILT)), folder / "out", workers=1)


def test_an_artifact_says_what_its_device_asked_for(made: tuple[Path, Result]) -> None:
    """Else a benchmark here would be taken for a measurement of a budget on another device."""
    folder, _ = made
    records = {name: artifact.Artifact.open(folder / "out" / name / "resnet20").pruning for name in ("board", "chip")}
    board_record, chip_record = records["board"], records["chip"]
    assert board_record is not None and board_record.device == str(folder / "board.json")
    assert chip_record is not None and chip_record.size_of == ("onnx",) and chip_record.device is None
    assert board_record.criterion == "magnitude" and board_record.budget == {"latency": "1.2x"}


def test_every_device_gets_an_artifact_that_keeps_its_budget(made: tuple[Path, Result]) -> None:
    folder, result = made
    for row in result.rows:
        if row.device == "dust":
            assert row.loss is None and "floor" in row.trouble and row.costs["params"] > 10
            continue
        assert not row.trouble
        for cost, limit in row.limits.items():
            assert row.costs[cost] <= limit, (row.device, cost)
        model = artifact.load(folder / "out" / row.folder)
        assert sum(p.numel() for p in model.parameters()) == row.costs["params"]
        assert row.files and all((folder / "out" / row.folder / name).is_file() for name in row.files)
    assert {row.device for row in result.rows if row.chosen} == {"server", "board", "chip"}
    assert [row.chosen for row in result.rows if row.device == "server"].count(True) == 1 < len(result.rows) - 3


def test_running_again_makes_only_what_is_missing_and_what_was_changed(made: tuple[Path, Result]) -> None:
    folder, first = made
    kept = (folder / "out" / "server" / "resnet20" / "model.safetensors").stat().st_mtime_ns
    again = run_fleet(read_fleet(folder / "fleet.yaml"), folder / "out")
    assert (again.written, again.reused) == (0, first.written)
    (folder / "out" / "board" / "resnet20" / DONE).unlink()
    before = (folder / "out" / "board" / "resnet20" / "model.safetensors").read_bytes()
    assert run_fleet(read_fleet(folder / "fleet.yaml"), folder / "out").written == 1
    assert (folder / "out" / "board" / "resnet20" / "model.safetensors").read_bytes() == before
    (folder / "out" / "board" / "resnet20" / "plan.json").unlink()  # a file that is gone is missing too
    assert run_fleet(read_fleet(folder / "fleet.yaml"), folder / "out").written == 1
    key = next(row.key for row in first.rows if row.device == "chip")
    stored = folder / "out" / "chip" / "resnet20"
    for name in ("model.safetensors", "plan.json", "model.onnx"):  # as many bytes, and one of them wrong
        content = (stored / name).read_bytes()
        assert is_complete(stored, key)
        (stored / name).write_bytes(content[:-9] + bytes([content[-9] ^ 1]) + content[-8:])
        assert not is_complete(stored, key), name
        (stored / name).write_bytes(content)
    changed = fleet_file(folder, BUILT.replace("params: 2x", "params: 3x"))
    assert run_fleet(read_fleet(changed), folder / "out").written == 2, "both networks of the server"
    assert (folder / "out" / "server" / "resnet20" / "model.safetensors").stat().st_mtime_ns != kept
    assert not list((folder / "out").rglob(".*")), "nothing half-made is left"


def test_the_page_shows_the_network_of_each_device_and_budgets_that_were_not_met(made: tuple[Path, Result]) -> None:
    folder, result = made
    written = write_page(result)
    page = (folder / "out" / "index.html").read_text()
    assert "What could not be met" in page and "Gets nothing at all: dust" in page
    assert "3 get a network that keeps its budget, 1 nothing" in page
    # By device, in the order of the file, each with its budget; what it gets is bold, and leads to its report.
    places = [page.index(f">{device}: {asked}<") for device, asked in ASKED.items()]
    assert places == sorted(places)
    board = page[places[1] : places[2]]
    assert '<strong><a href="board/resnet20/report.html"><span class="name">resnet20</span></a></strong>' in board
    assert "nothing: see what could not be met" in page[places[3] :]
    # Numbers have units, their dense ones beside them, and say what they are of.
    row = next(row for row in result.rows if row.device == "board")
    assert short_text("latency", row.costs["latency"]) in board and "used" in board
    assert f"{numbers.ratio(row.dense['params'] / row.costs['params'])} less" in board
    assert f"of {numbers.format_count(row.training_flops['dense'])}" in board
    assert "File size: of the exported file: onnx" in page
    assert "Latency: predicted for a machine that is nowhere" in page and "only training tells that" in page
    assert {path.name for path in written} >= {"index.html", "front-params.svg", "front-size.svg"}
    assert "src=" not in page and page.count("<svg") >= 2, "the page needs no other file"
    assert all((folder / "out" / row.folder / "report.html").exists() for row in result.rows if row.folder)
    best = front(result.rows, "params")
    for row in best:
        assert not any(
            other.costs["params"] <= row.costs["params"] and other.loss < row.loss
            for other in result.rows
            if other.loss is not None
        )


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ("  chip: {size: 40kB}", "  chip: {sise: 40kB}", r"line 8: devices.chip has no 'sise'. Did you mean 'size'"),
        ("criterion", "criterium", r"line 3: .*'criterium'. Did you mean 'criterion'"),
        ("{size: 40kB}", "{size: 40 parsecs}", r"line 8: devices.chip: .*cannot be read"),
        ("  dust: {", "  dust: [", r"line 9"),
        ("  board:", "  server:", r"line 7: 'server' is there twice"),
        (
            "{size: 40kB}",
            "{peak_memory: 40kB, memory_of: tvm}",
            r"line 8: devices.chip.memory_of: 'tvm' is none of executorch, onnx",
        ),
        (
            "{size: 40kB}",
            "{size: 40kB, precision: int4}",
            r"line 8: devices.chip.precision: 'int4' is none of fp32, int8",
        ),
        ("models: [resnet20, resnet8]\n", "", r"models is missing"),
        ("criterion: magnitude", "criterion: magnitud", r"line 3: criterion: 'magnitud' is none of"),
        ("export: [onnx]\n", "export: [onxx]\n", r"line 4: entry 1 of export: 'onxx' is none of.*Did you mean 'onnx'"),
        ("{size: 40kB}", "{size: 40kB, models: [resnet2O]}", r"line 8: device chip: the fleet has no model 'resnet2O'"),
        ("{size: 40kB}", "{params: !!python/object:os.system x}", r"line 8: this value cannot be read"),
        ("{size: 40kB}", "{params: 2024-13-45}", r"line 8: this value cannot be read"),
        ("{size: 40kB}", "{\n    params: 4x,\n    latency: 5}", r"line 10: devices.chip: latency"),
        ("  dust:", "  [a, b]:", r"line 9: a name in devices is not plain text"),
        ("  dust:", "  fleet.json:", r"line 9: device 'fleet.json' becomes a folder"),
        (
            "criterion: magnitude",
            "train: {epochs: 1, lr: fast}",
            r"line 3: train.lr: expected a number",
        ),
        ("criterion: magnitude", "train: {epochs: -1}", r"line 3: train.epochs: expected at least 1, got -1"),
        ("{size: 40kB}", "{size: 40kB, memory_of: onnx}", r"line 8: device chip: memory_of is about peak_memory"),
        ("{size: 40kB}", "{size: 40kB, profile: phone.json}", r"line 8: device chip: .*phone.json: No such file"),
        ("{size: 40kB}", "{size: 40kB, profile: phone}", r"line 8: device chip: .*'phone'"),
        ("{size: 40kB}", "{size: 40kB, round_to: -8}", r"line 8: devices.chip.round_to: expected at least 1, got -8"),
        ("[resnet20, resnet8]", "\n- resnet20\n- resnet21", r"line 3: .*'resnet21'"),
        ("criterion: magnitude", "data: no/such/place", r"line 3: no data at"),
        ("criterion: magnitude", "seed: 99999999999999999999", r"line 3: seed 9+ is beyond 64 bits"),
        ("criterion: magnitude", "train: {epochs: true}", r"line 3: train.epochs: expected a whole number, got true"),
        ("criterion: magnitude", "train: {epochs: 1, batch_size: 0}", r"line 3: batch_size 0 .*above 0"),
        (
            "criterion: magnitude",
            "train: {epochs: 1, compile: 3}",
            r"line 3: train.compile: expected true or false",
        ),
        ("  dust:", "  front-params.svg:", r"line 9: device 'front-params.svg' becomes a folder"),
        ("criterion: magnitude", "input: 3x-1x32", r"line 3: input: '3x-1x32' is not a shape"),
        ("criterion: magnitude", "limit: -3", r"line 3: limit: expected at least 1, got -3"),
        ("[resnet20, resnet8]", "[resnet20, resnet20]", r"line 1: .* twice"),
        ("{size: 40kB}", "{cycles: 2x}", r"line 8: device chip: cycles depends on a chip. .*chip: one of .*ne16"),
        ("{size: 40kB}", "{cycles: 2x, chip: bits}", r"line 8: device chip: cycles depends on a chip"),
        ("{size: 40kB}", "{size: 40kB, export: [], precision: int8}", r"line 8: device chip: size in int8 .* export:"),
        (
            "{size: 40kB}",
            "{macs: 2x, export: [], precision: int8}",
            r"line 8: device chip: precision is about",
        ),
        ("{size: 40kB}", "{\n    <<: {sise: 2x},\n    macs: 2x}", r"line 9: devices.chip has no 'sise'"),
    ],
)
def test_a_mistake_in_the_file_is_reported_with_its_line(tmp_path: Path, old: str, new: str, why: str) -> None:
    with pytest.raises(FleetError, match=why):
        read_fleet(fleet_file(tmp_path, FILE.replace(old, new)))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("models: [resnet8]\nkeep: [nolayer]", r"line 2: resnet8: .*'nolayer'"),
        ("models:\n- resnet8\ninput: 1x28x28", r"line 2: resnet8: .*channels"),
    ],
)
def test_mistakes_that_planning_finds_are_no_budgets_that_cannot_be_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, why: str
) -> None:
    path = fleet_file(tmp_path, f"{text}\nargs: {{width: 0.25}}\ncriterion: magnitude\ndevices: {{a: {{macs: 2x}}}}")
    with pytest.raises(FleetError, match=why):
        run_fleet(read_fleet(path), tmp_path / "out")
    assert cli.main(["fleet", str(path), "-o", str(tmp_path / "out")]) == 1
    assert "line 2: resnet8" in capsys.readouterr().err


def test_what_a_device_gets_is_in_the_precision_of_its_profile(tmp_path: Path) -> None:
    plain = read_fleet(fleet_file(tmp_path))
    assert [device.precision for device in plain.devices] == [None, "fp32", None, None]
    for precision in ("fp32", "int8"):
        path = fleet_file(tmp_path, FILE.replace("profile: board.json", f"profile: board.json, precision: {precision}"))
        devices.save_profile(dataclasses.replace(board(), precision="int8"), tmp_path / "board.json")
        if precision == "int8":
            assert read_fleet(path).devices[1].target.precision == "int8"
        else:
            with pytest.raises(FleetError, match=r"line 7: device board: precision is fp32, .* measured in int8"):
                read_fleet(path)
    fleet_file(tmp_path)
    devices.save_profile(dataclasses.replace(board(), precision="int8"), tmp_path / "board.json")
    assert read_fleet(tmp_path / "fleet.yaml").devices[1].precision == "int8"


KILLED = """\
models: ["support.fleet_models:deadly"]
args: {{folder: "{folder}"}}
input: 3x8x8
criterion: magnitude
devices:
  one: {{params: 2x}}
  same: {{params: 2x}}
  two: {{params: 3x}}
  three: {{params: 4x}}
"""


def test_a_job_that_kills_its_workers_or_fails_does_not_stop_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four jobs, two with the same budget: the first to build a model in a worker dies, always; the second raises."""
    monkeypatch.setenv("FLEET_PARENT", str(os.getpid()))
    path = tmp_path / "fleet.yaml"
    path.write_text(KILLED.format(folder=tmp_path))
    result = run_fleet(read_fleet(path), tmp_path / "out", workers=2, allow_import=True)
    trouble = sorted(row.trouble for row in result.rows if row.trouble)
    assert result.written == 2 and len(trouble) == 2
    assert "KeyError: 'surprise'" in trouble[0] and "its worker died 3 times" in trouble[1]
    page = write_page(result)[0].read_text()
    assert "What could not be met" in page and "surprise" in page
    monkeypatch.setenv("FLEET_PARENT", "all")  # no worker dies any more
    assert run_fleet(read_fleet(path), tmp_path / "out", workers=2, allow_import=True).written == 2


def test_an_unforeseen_error_is_a_row_with_its_place_in_the_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(portfolio, "execute_job", lambda job, work: [][0])
    path = fleet_file(tmp_path, "models: [resnet20]\nargs: {width: 0.25}\ndevices: {a: {params: 2x}}")
    (row,) = run_fleet(read_fleet(path), tmp_path / "out").rows
    assert row.trouble.startswith("IndexError: list index out of range (in <lambda>, ") and __file__ in row.trouble


@pytest.mark.parametrize(
    ("text", "cores", "workers"),
    [
        ("devices: {a: {params: 2x}, b: {params: 3x}}", 2, 2),
        ("devices: {a: {params: 2x}, b: {params: 3x}}", 64, 2),
        ("devices: {a: {params: 2x}, b: {params: 3x}}", 1, 1),
        ("devices: {a: {params: 2x}, b: {params: 3x}}\ntrain: {epochs: 1}", 2, 1),
    ],
)
def test_as_many_processes_as_cores_and_jobs_where_nothing_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, cores: int, workers: int
) -> None:
    asked: list[int] = []

    def nothing(execute: Any, jobs: Any, work: str, *, workers: int) -> list[Any]:
        asked.append(workers)
        return [(job, "not made") for job in jobs]

    monkeypatch.setattr(portfolio, "usable_cores", lambda: cores)
    monkeypatch.setattr(portfolio, "in_processes", nothing)
    fleet = read_fleet(fleet_file(tmp_path, f"models: [resnet20]\nargs: {{width: 0.25}}\n{text}"))
    run_fleet(fleet, tmp_path / "out")
    run_fleet(fleet, tmp_path / "out", workers=3)
    run_fleet(fleet, tmp_path / "out", workers=0)  # no way to ask for the default: the pool refuses it
    assert asked == [workers, 3, 0]


@pytest.mark.slow
def test_devices_with_the_same_budget_do_not_disturb_each_other(tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    path = tmp_path / "fleet.yaml"
    path.write_text(
        "models: [resnet20]\nargs: {width: 0.25, num_classes: 10}\ncriterion: magnitude\nlimit: 60\n"
        "train: {epochs: 2, batch_size: 30}\ndevices: {a: {params: 2x}, b: {params: 2x}, c: {params: 2x}}\n"
    )
    result = run_fleet(read_fleet(path), tmp_path / "out", workers=2)
    assert result.written == 3 and not any(row.trouble for row in result.rows), [row.trouble for row in result.rows]
    made = [tmp_path / "out" / row.folder for row in result.rows]
    for name in ("model.safetensors", "plan.json"):
        assert len({(place / name).read_bytes() for place in made}) == 1, "the same seed, the same bytes"


def test_one_fleet_at_a_time_works_in_a_folder(tmp_path: Path) -> None:
    path = fleet_file(tmp_path, "models: [resnet20]\nargs: {width: 0.25}\ndevices: {a: {params: 500x}}")
    (tmp_path / "out").mkdir()
    out = tmp_path / "out"
    with alone_in(out, error=FleetError), pytest.raises(FleetError, match="another process is at work in"):
        run_fleet(read_fleet(path), out)
    (tmp_path / "out" / "a" / "resnet20").mkdir(parents=True)
    (row,) = run_fleet(read_fleet(path), tmp_path / "out").rows
    assert "What lies in a/resnet20 is from before" in row.trouble


def write_pictures(folder: Path, count: int, shade: int = 99) -> None:
    """Pictures of two classes."""
    images = pytest.importorskip("PIL.Image")
    for kind in ("cat", "dog"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            images.new("RGB", (8, 8), (number * 9, 0, shade)).save(folder / kind / f"{number}.png")


ON_PICTURES = "models: [resnet20]\nargs: {width: 0.25}\ncriterion: magnitude\ninput: 3x8x8\ndata: d\n"


def test_what_was_trained_on_other_data_is_made_again(tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    path = fleet_file(tmp_path, ON_PICTURES + "devices: {a: {params: 2x}}\n")
    for count, shade, made in ((10, 99, 1), (10, 99, 0), (10, 98, 1), (20, 98, 1)):
        write_pictures(tmp_path / "d", count, shade)
        result = run_fleet(read_fleet(path), tmp_path / "out")
        assert result.written == made, (count, shade)
        assert result.rows[0].training_unit == f"an epoch of {round(1.6 * count)} examples"


def test_a_worker_refuses_data_that_are_not_those_of_the_plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def elsewhere(job: dict[str, Any], work: str) -> Any:
        write_pictures(tmp_path / "d", 10, shade=98)
        return execute_job(job, work)

    monkeypatch.setattr(portfolio, "execute_job", elsewhere)
    write_pictures(tmp_path / "d", 10)
    path = fleet_file(tmp_path, ON_PICTURES + "train: {epochs: 1}\ndevices: {a: {params: 2x}}\n")
    (row,) = run_fleet(read_fleet(path), tmp_path / "out").rows
    assert "holds other files here than where the fleet was planned" in row.trouble


def test_a_model_whose_code_changed_is_made_again(tmp_path: Path) -> None:
    """The initial weights stay the same, and so do all shapes."""
    layers = tmp_path / "fleet_layers.py"
    layers.write_text("from torch import nn\nACTIVATION = nn.ReLU\n")
    (tmp_path / "fleet_net.py").write_text(
        "from torch import nn\nimport fleet_layers\n\ndef net():\n"
        "    return nn.Sequential(nn.Conv2d(3, 8, 3), fleet_layers.ACTIVATION(), nn.Flatten(), nn.Linear(288, 4))\n"
    )
    path = fleet_file(
        tmp_path,
        f"models: ['{tmp_path}/fleet_net.py:net']\ninput: 3x8x8\ncriterion: magnitude\ndevices: {{a: {{params: 2x}}}}",
    )
    for text, made in (("", 1), ("", 0), ("ACTIVATION = nn.SiLU\n", 1)):
        layers.write_text(layers.read_text() + text)
        assert run_fleet(read_fleet(path), tmp_path / "out", allow_import=True).written == made


FRAGILE = """\
models: ["support.fleet_models:fragile"]
args: {{marker: "{marker}", times: {times}}}
input: 3x8x8
criterion: magnitude
devices:
  one: {{params: 2x}}
  two: {{params: 3x}}
  three: {{params: 4x}}
"""


@pytest.mark.parametrize("times", [1, pytest.param(99, marks=pytest.mark.slow)])
def test_a_worker_that_dies_is_started_again_and_one_that_always_dies_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    monkeypatch.setenv("FLEET_PARENT", str(os.getpid()))
    path = tmp_path / "fleet.yaml"
    path.write_text(FRAGILE.format(marker=tmp_path / "deaths", times=times))
    result = run_fleet(read_fleet(path), tmp_path / "out", workers=2, allow_import=True)
    assert (tmp_path / "deaths").exists(), "somebody died"
    if times == 1:
        assert result.written == 3 and not any(row.trouble for row in result.rows)
    else:
        assert result.written == 0 and all("died" in row.trouble for row in result.rows)


@pytest.mark.slow
def test_two_ray_nodes_share_the_work_and_a_killed_worker_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ray = pytest.importorskip("ray")
    cluster_utils = pytest.importorskip("ray.cluster_utils")
    monkeypatch.setenv("FLEET_PARENT", str(os.getpid()))
    path = tmp_path / "fleet.yaml"
    path.write_text(FRAGILE.format(marker=tmp_path / "deaths", times=1))
    cluster = cluster_utils.Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    try:
        cluster.add_node(num_cpus=1)
        result = run_fleet(read_fleet(path), tmp_path / "out", ray=cluster.address, allow_import=True)
        assert len([node for node in ray.nodes() if node["Alive"]]) == 2
    finally:
        ray.shutdown()
        cluster.shutdown()
    assert (tmp_path / "deaths").exists(), "a worker died"
    assert result.written == 3 and not any(row.trouble for row in result.rows)


def test_fit_ranks_what_loses_least_first_and_says_what_does_not_fit() -> None:
    sources = [resolve_address(name, {"width": width}) for name, width in (("resnet20", 0.25), ("resnet20", 1.0))]
    device = board()
    found = rank(sources, Budget(params=10_000), target=Target(device), criterion="magnitude", examples=1000)
    losses = [candidate.loss for candidate in found.candidates]
    assert losses[0] < losses[1], "the smaller network has less to lose"
    for candidate in found.candidates:  # the device has its say though no latency was asked for
        assert 0 < candidate.costs["latency"] < candidate.dense["latency"]
        assert candidate.training_flops["pruned"] == 6 * 1000 * candidate.costs["macs"]
    assert "latency: predicted for a machine that is nowhere" in str(found) and "an epoch of 1,000 examples" in str(
        found
    )
    none = rank(sources, Budget(params=10), target=Target(device), criterion="magnitude")
    assert all("floor" in candidate.trouble for candidate in none.candidates)


def test_the_commands_answer_in_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = fleet_file(tmp_path, FILE.replace("export: [onnx]\n", "").replace(", export: [onnx]", ""))
    assert cli.main(["fleet", str(path), "-o", str(tmp_path / "out"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["made"] == 4 and len(found["rows"]) == 5
    device = str(tmp_path / "board.json")
    words = ["fit", device, "--models", "resnet20, resnet20", "--params", "100K", "--criterion", "magnitude", "--json"]
    assert cli.main(words) == 0
    (candidate,) = json.loads(capsys.readouterr().out)["candidates"]
    assert candidate["loss"] > 0 and candidate["costs"]["latency"] > 0
    assert candidate["training_unit"] == "an epoch of 1,438 examples"
    assert cli.main(["fit", device, "--models", "resnet20"]) == 2
    assert cli.main(["fit", "nowhere", "--models", "resnet20", "--params", "2x"]) == 1
    for options in (["--ray", ""], ["--ray", "auto", "--workers", "2"], ["--workers", "0"]):
        assert cli.main(["fleet", str(path), *options]) == 2
    assert cli.main(["fleet", str(tmp_path / "none.yaml")]) == 1


def test_size_is_about_the_exported_file_where_one_is_asked_for(made: tuple[Path, Result]) -> None:
    folder, result = made
    chips = [row for row in result.rows if row.device == "chip"]
    assert chips
    for row in chips:
        file = folder / "out" / row.folder / "model.onnx"
        assert 0.85 * 40_000 <= file.stat().st_size <= 40_000  # one step of a stream is a tenth of so small a network
        assert row.costs["size"] == file.stat().st_size


def test_sizes_are_of_the_exported_files_also_where_they_are_not_limited(made: tuple[Path, Result]) -> None:
    _, result = made
    for row in (row for row in result.rows if row.folder):
        assert row.files is not None and row.costs["size"] == row.files["model.onnx"]
        assert row.about["size"] == "of the exported file: onnx"
        assert ("size" in row.dense) == (row.device == "chip"), "only there the dense network was exported"


def test_a_file_over_its_limit_is_not_chosen(made: tuple[Path, Result], tmp_path: Path) -> None:
    folder, result = made
    row = next(row for row in result.rows if row.device == "chip")
    device = next(device for device in read_fleet(folder / "fleet.yaml").devices if device.name == "chip")
    stored = artifact.Artifact.open(folder / "out" / row.folder)
    over = portfolio._with_files(dataclasses.replace(row, limits={"size": 1000.0}), device, stored)
    assert "more than the limit on size of 1,000" in over.trouble and not mark_chosen([over])[0].chosen
    assert "more than the limit" in str(Result((over,), 1, 0, tmp_path))


def test_a_cost_that_did_not_change_says_so(tmp_path: Path) -> None:
    costs, dense = {"params": 50.0, "peak_memory": 8.0}, {"params": 100.0, "peak_memory": 8.0}
    row = DeviceRow(device="a", model="m", budget={"params": "2x"}, key="k", costs=costs, dense=dense, loss=0.1)
    page = write_page(Result((row,), 1, 0, tmp_path))[0].read_text()
    assert "2.00× less" in page and "unchanged" in page and "1.00×" not in page


def test_where_no_budget_can_be_kept_the_fleet_says_why(tmp_path: Path) -> None:
    file = fleet_file(
        tmp_path, "models: [resnet20]\nargs: {width: 0.25}\ncriterion: magnitude\ndevices: {a: {params: 1}}"
    )
    result = run_fleet(read_fleet(file), tmp_path / "new")
    assert "the floor is" in str(result) and "devices that get nothing: a" in str(result)
    assert cli.main(["fleet", str(file), "-o", str(tmp_path / "new")]) == 1, "nothing was made"
    assert (tmp_path / "new" / "fleet.json").is_file()


@pytest.mark.slow
def test_a_file_that_cannot_be_so_small_is_refused() -> None:
    model = resolve_address("resnet20", {"width": 0.25}).build()
    # The floor of the weights' file is above that of the exported one: what counts is the file itself.
    smallest = rc.plan(model, torch.zeros(1, 3, 32, 32), Budget(size="10kB"), "magnitude", size_of=["onnx"])
    assert smallest.costs["pruned"]["size"] <= 10_000
    with pytest.raises(BudgetError, match=r"of the exported file: onnx\) cannot be kept: the smallest of"):
        rc.plan(model, torch.zeros(1, 3, 32, 32), Budget(size="9kB"), "magnitude", size_of=["onnx"])


def test_microcontrollers_of_the_example_are_for_a_chip_and_its_files() -> None:
    fleet = read_fleet(ROOT / "examples" / "fleet" / "microcontrollers.yaml")
    for device in fleet.devices:
        assert device.target.chip == "ethos-u55-128" and set(device.budget.asked) == {"cycles", "sram", "flash"}
        assert device.export == ("litert",) and device.precision == "int8"


def test_a_chip_that_is_not_known_is_reported(tmp_path: Path) -> None:
    (tmp_path / "fleet.yaml").write_text("models: [resnet20]\ndevices: {a: {cycles: 2x, chip: ethos-u56}}")
    with pytest.raises(FleetError, match="'ethos-u56' is none of"):
        read_fleet(tmp_path / "fleet.yaml")


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_example_ends_in_files_that_keep_their_limits(tmp_path: Path) -> None:
    fleet = read_fleet(ROOT / "examples" / "fleet" / "fleet.yaml")
    result = run_fleet(fleet, tmp_path / "out")
    assert {row.device for row in result.rows if row.chosen} == {device.name for device in fleet.devices}
    for row in (row for row in result.rows if row.folder):
        model = artifact.load(tmp_path / "out" / row.folder)
        found = rc.measure(model, torch.zeros(1, 3, 32, 32), latency=False)
        weight = (tmp_path / "out" / row.folder / "model.onnx").stat().st_size
        costs = {**found.to_dict(), "size": weight}
        for cost, limit in row.limits.items():
            assert costs[cost] <= limit, (row.device, row.model, cost)


def test_a_fleet_trains_each_of_its_networks_and_picks_the_one_with_the_best_accuracy(tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    path = tmp_path / "fleet.yaml"
    path.write_text(
        "models: [resnet20, resnet8]\nargs: {width: 0.25, num_classes: 10}\ncriterion: magnitude\n"
        "data: digits\nlimit: 60\ntrain: {epochs: 1, batch_size: 30}\ndevices:\n  board: {params: 2x}\n"
    )
    result = run_fleet(read_fleet(path), tmp_path / "out")
    assert not any(row.trouble for row in result.rows), [row.trouble for row in result.rows]
    for row in result.rows:
        trained = artifact.Artifact.open(tmp_path / "out" / row.folder).training
        assert trained is not None and (trained.score, trained.task) == (row.score, row.task)
        assert (trained.epochs, trained.examples) == (1, 60)
    best = max(row.score for row in result.rows if row.score is not None)
    assert [row.score for row in result.rows if row.chosen] == [best]
    assert f">{best:.1%}<".replace("%", "\u202f%") in (write_page(result)[0]).read_text()


def test_a_fleet_trains_for_the_task_of_its_file(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    rng = np.random.default_rng(0)
    for number in range(10):
        pixels = rng.integers(0, 256, (32, 32, 3)).astype(np.uint8)
        for name, values in (("images", pixels), ("masks", (pixels[:, :, 0] > 128).astype(np.uint8))):
            (tmp_path / "cells" / name).mkdir(parents=True, exist_ok=True)
            image.fromarray(values).save(tmp_path / "cells" / name / f"{number}.png")
    path = tmp_path / "fleet.yaml"
    path.write_text(
        "models: [unet]\nargs: {width: 0.25, num_classes: 2}\ninput: 3x32x32\ncriterion: magnitude\n"
        "data: cells\ntask: segmentation\ntrain: {epochs: 1, batch_size: 4}\ndevices:\n  board: {params: 2x}\n"
    )
    (row,) = run_fleet(read_fleet(path), tmp_path / "out").rows
    assert row.chosen and row.task == "segmentation" and row.score is not None, row.trouble
    trained = artifact.Artifact.open(tmp_path / "out" / row.folder).training
    assert trained is not None and (trained.task, trained.metrics["dice"]) == (row.task, row.score)
    path.write_text(path.read_text().replace("task: segmentation", "task: cells"))
    with pytest.raises(FleetError, match=r"line 6: .*segmentation"):
        read_fleet(path)


@pytest.mark.parametrize(
    ("task", "best", "shown", "heading", "cell"),
    [
        ("classification", 0.75, "75.00%", "Accuracy", "75.0\u202f%"),
        ("regression", 0.25, "0.25", "MAE", "0.250"),
        ("segmentation", 0.75, "0.75", "Dice", "0.750"),
    ],
)
def test_the_best_network_is_the_one_its_task_calls_best(
    task: str, best: float, shown: str, heading: str, cell: str, tmp_path: Path
) -> None:
    trained = [
        DeviceRow(device="board", model=model, budget={}, key="", loss=0.1, task=task, score=score)
        for model, score in (("a", 0.25), ("b", 0.75))
    ]
    result = Result(tuple(mark_chosen(trained)), 2, 0, tmp_path)
    assert [row.score for row in result.rows if row.chosen] == [best]
    assert task_named(task).headline in str(result) and shown in str(result)
    page = write_page(result)[0].read_text()
    assert f">{heading}<" in page and f">{cell}<" in page


@pytest.mark.slow
def test_a_cluster_that_does_not_answer_is_reported(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    path = tmp_path / "fleet.yaml"
    path.write_text("models: [resnet20]\ncriterion: magnitude\ndevices:\n  board: {params: 2x}\n")
    with pytest.raises(FleetError, match=r"no Ray cluster answers at 127.0.0.1:1: .*ray start --head"):
        run_fleet(read_fleet(path), tmp_path / "out", ray="127.0.0.1:1")
    assert not (tmp_path / "out").exists(), "it was tried before anything else"


def test_an_output_that_is_a_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "fleet.yaml"
    path.write_text("models: [resnet20]\ncriterion: magnitude\ndevices:\n  board: {params: 2x}\n")
    (tmp_path / "taken").write_text("")
    with pytest.raises(FleetError, match=r"taken: .*taken is not a folder"):
        run_fleet(read_fleet(path), tmp_path / "taken")


STOPPED = """\
models: [resnet20]
args: {width: 0.25, num_classes: 10}
criterion: magnitude
data: digits
limit: 200
train: {epochs: 400, batch_size: 20}
devices: {one: {params: 2x}, two: {params: 3x}, three: {params: 4x}}
"""


def test_ctrl_c_stops_a_fleet_and_all_its_workers(tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    path, out = tmp_path / "fleet.yaml", tmp_path / "out"
    path.write_text(STOPPED)
    running = subprocess.Popen(
        [sys.executable, "-m", "reconvene", "fleet", str(path), "-o", str(out), "--workers", "2"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # so that the signal can go to all of its processes, as it does in a terminal
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    while len(list(out.rglob("train.jsonl"))) < 2 and running.poll() is None:
        time.sleep(0.1)
    os.killpg(running.pid, signal.SIGINT)
    stdout, stderr = running.communicate(timeout=60)  # which also waits for the workers: they hold its pipes
    assert running.returncode == 130 and stdout == "" and "Traceback" not in stderr, stderr
    with pytest.raises(ProcessLookupError):  # none is left, as soon as the init process has reaped the killed workers
        for _ in range(300):
            os.killpg(running.pid, 0)
            time.sleep(0.1)
    assert not [place for place in out.iterdir() if place.name != ".work"], "nothing half-made has landed"
    shorter = fleet_file(tmp_path, STOPPED.replace("400", "1"))
    assert run_fleet(read_fleet(shorter), out).written == 3 and not (out / ".work").exists()


def test_the_key_of_a_measured_latency_is_the_same_at_any_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "fleet.yaml"
    path.write_text("models: [resnet20]\ncriterion: magnitude\ndevices:\n  here: {latency: 2x}\n")
    keys = []
    for date in ("2026-01-01", "2027-01-01"):
        conditions = {"device": {"processor": "p"}, "runtime": {"version": "1"}, "precision": "fp32", "date": date}
        monkeypatch.setattr(assignments, "measuring_conditions", lambda *_, c=conditions: c)
        keys.append([each.key for each in assignments.assignments_of(read_fleet(path), allow_import=False)])
    assert keys[0] == keys[1]


def test_two_models_never_share_a_folder_of_results(tmp_path: Path) -> None:
    path = tmp_path / "fleet.yaml"
    path.write_text("models: ['timm:resnet18', 'timm-resnet18']\ndevices:\n  here: {params: 2x}\n")
    with pytest.raises(FleetError):
        read_fleet(path)
    assert networks.result_folder("timm:resnet18", None) == networks.result_folder("timm-resnet18", None)
    assert networks.result_folder("nets\\mine.py:make", None) == "nets-mine.py-make"


def test_a_worker_loads_plugins_before_its_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Loaded(BaseException):
        pass

    def load() -> list[str]:
        raise Loaded

    monkeypatch.setattr(job, "load_plugins", load)
    with pytest.raises(Loaded):
        job.execute_job({"key": "k"}, str(tmp_path))
