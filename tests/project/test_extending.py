"""What the pages on extending show works from outside: no file of the package is touched."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tarfile
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import reconvene as rc
from reconvene.costs import COSTS
from reconvene.criteria.registry import CHANNEL_CRITERIA
from reconvene.data import Preprocessing
from reconvene.deploy import FORMATS, RUNTIMES, write_bundle
from reconvene.errors import ExportError
from reconvene.models import resolve_address
from reconvene.structure import analyse
from reconvene.structure.custom_layers import LAYERS
from reconvene.structure.rules import RULES
from reconvene.tasks import TASKS
from support.paths import ROOT

PAGES = ROOT / "docs" / "extending"
SOURCES = str(ROOT / "src")


def blocks(page: str) -> list[str]:
    """The Python blocks of a page: the plugin first, then its use."""
    text = (PAGES / f"{page}.md").read_text(encoding="utf-8")
    return re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def run(folder: Path, plugin: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """``reconvene`` in a process of its own, in the folder of the plugin."""
    environment = {**os.environ, "RECONVENE_PLUGINS": plugin, "PYTHONPATH": SOURCES, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "reconvene", *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)


@pytest.fixture
def energy(tmp_path: Path) -> Path:
    (tmp_path / "joules.py").write_text(blocks("cost")[0])
    return tmp_path


def test_a_cost_of_ones_own_is_a_budget_in_python(monkeypatch: pytest.MonkeyPatch) -> None:
    plugin, use = blocks("cost")
    monkeypatch.setitem(COSTS, "joules", None)  # removed again after the test
    exec(plugin, {"__name__": "joules"})
    monkeypatch.setitem(sys.modules, "joules", ModuleType("joules"))
    names = {"model": resolve_address("resnet20", {"width": 0.5}).build(), "example_inputs": torch.randn(1, 3, 32, 32)}
    exec(use, names)
    plan = names["small"].reconvene_plan
    for cost, times in (("joules", 3), ("params", 2)):
        assert plan.costs["pruned"][cost] <= plan.limits[cost] == pytest.approx(plan.costs["dense"][cost] / times)
    by_hand = 0.0

    def count(module, inputs, output):
        nonlocal by_hand
        joules = 4.6e-12 if isinstance(module, torch.nn.Conv2d) else 3.7e-12
        by_hand += joules * output.numel() * module.weight[0].numel()

    small = names["small"]
    hooks = [
        m.register_forward_hook(count) for m in small.modules() if isinstance(m, torch.nn.Conv2d | torch.nn.Linear)
    ]
    small(names["example_inputs"])
    for hook in hooks:
        hook.remove()
    assert plan.costs["pruned"]["joules"] == pytest.approx(by_hand, rel=1e-9)
    assert "joules: " in str(plan) and "µJ" in str(plan)


def test_a_cost_of_ones_own_is_an_option_of_the_command_line_and_is_in_the_report(energy: Path) -> None:
    shown = run(energy, "joules", "prune", "--help")
    assert "--joules LIMIT" in shown.stdout and "Joules of one inference" in shown.stdout
    call = (
        "run",
        "resnet20",
        "--model-arg",
        "width=0.25",
        "--joules",
        "2x",
        "--epochs",
        "1",
        "--limit",
        "80",
        "-o",
        "out",
    )
    done = run(energy, "joules", *call)
    assert done.returncode == 0, done.stderr
    assert "Energy" in done.stdout
    plan = json.loads((energy / "out" / "plan.json").read_text())
    assert plan["costs"]["pruned"]["joules"] <= plan["limits"]["joules"]
    page = (energy / "out" / "report.html").read_text()
    assert '<th scope="row">Energy</th>' in page.replace("'", '"') and "µJ" in page


def test_a_cost_of_ones_own_limits_devices_of_a_fleet(energy: Path) -> None:
    (energy / "fleet.yaml").write_text(
        "models: [resnet20]\nargs: {width: 0.25}\ndevices:\n  sensor: {joules: 3x, params: 2x}\n  hub: {joules: 1.5x}\n"
    )
    done = run(energy, "joules", "fleet", "fleet.yaml", "-o", "out")
    assert done.returncode == 0, done.stderr
    assert "joules" in done.stdout and "µJ" in (energy / "out" / "index.html").read_text()


def test_a_plugin_that_cannot_be_imported_is_named(tmp_path: Path) -> None:
    done = run(tmp_path, "no_such_module", "prune", "resnet20", "--params", "2x", "-o", "out")
    assert done.returncode == 1 and "the plugin no_such_module (RECONVENE_PLUGINS) cannot be imported" in done.stderr


def test_a_criterion_of_ones_own_chooses_channels(monkeypatch: pytest.MonkeyPatch) -> None:
    plugin, use = blocks("criterion")
    monkeypatch.setitem(CHANNEL_CRITERIA, "spread", None)
    module = ModuleType("spread")
    exec(plugin, vars(module))
    monkeypatch.setitem(sys.modules, "spread", module)
    model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 4, 3))
    with torch.no_grad():
        model[0].weight[::2] *= 1e-3  # every second channel hardly varies
    names = {"model": model, "example_inputs": torch.randn(1, 3, 8, 8)}
    exec(use, names)
    kept = names["plan"].keep["0"]
    assert 0 < len(kept) < 16 and set(kept[:8].tolist()) <= set(range(1, 16, 2)) and names["plan"].criterion == "spread"


class Split(nn.Module):
    """Two groups in one convolution, and one behind a transposed convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.both, self.up = nn.Conv2d(3, 12, 1), nn.ConvTranspose2d(6, 10, 2, stride=2)
        self.left, self.right = nn.Conv2d(6, 2, 1), nn.Conv2d(10, 2, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        left, right = self.both(x).chunk(2, 1)
        return self.left(left), self.right(self.up(right))


def test_the_criterion_of_the_page_scores_the_channels_of_each_group(monkeypatch: pytest.MonkeyPatch) -> None:
    names: dict[str, Any] = {}
    monkeypatch.setitem(CHANNEL_CRITERIA, "spread", None)
    exec(blocks("criterion")[0], names)
    model, x = Split(), torch.randn(1, 3, 4, 4)
    scores = names["spread"](SimpleNamespace(model=model, structure=analyse(model, x))).scores
    rows = model.both.weight.detach().double().flatten(1).std(1)
    up = model.up.weight.detach().double().movedim(1, 0).flatten(1).std(1)
    expected = {6: [rows[:6].tolist(), rows[6:].tolist()], 10: [up.tolist()]}
    for score in scores:
        assert any(score.tolist() == pytest.approx(one) for one in expected[len(score)])
    assert sorted(map(len, scores)) == [6, 6, 10]


def test_a_layer_of_ones_own_gets_a_rule(capsys: pytest.CaptureFixture[str]) -> None:
    plugin, use = blocks("operator")
    names: dict[str, object] = {"__name__": "fused"}
    try:
        exec(plugin, names)
        exec(use, names)
    finally:
        LAYERS.discard(names["Fused"])
        RULES.pop("Fused", None)
    small = names["small"]
    assert isinstance(small, nn.Sequential) and len(small[1].scale) == small[0].out_channels < 16


def test_a_task_of_ones_own_has_a_loss_metrics_and_agreement(monkeypatch: pytest.MonkeyPatch) -> None:
    (plugin,) = blocks("task")
    monkeypatch.setitem(TASKS, "depth", None)
    exec(plugin, {"__name__": "depth"})
    task = TASKS["depth"]
    output, target = torch.tensor([[1.0], [3.0]]), torch.tensor([2.0, 3.0])
    assert float(task.loss(output, target)) == 0.5 and task.metrics(output, target)["error"].tolist() == [1.0, 0.0]
    assert task.agreement(output, output) is None


def test_a_runtime_of_ones_own_exports_verifies_times_and_limits_sizes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plugin, program, use = blocks("runtime")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "npz_on_device.py").write_text(program)
    monkeypatch.setitem(RUNTIMES, "numpy", None)
    monkeypatch.setitem(FORMATS, "npz", None)
    names: dict[str, object] = {"__name__": "numpy_runtime"}
    exec(plugin, names)
    monkeypatch.setitem(sys.modules, "numpy_runtime", ModuleType("numpy_runtime"))
    exec(use, names)
    exported = names["exported"]
    assert exported.path.suffix == ".npz" and exported.verification.rows[0].max_rel_error < 1e-5
    plan = names["small"].reconvene_plan
    assert 0.9 * 40 * 1024 <= exported.bytes == plan.costs["pruned"]["size"] <= 40 * 1024
    assert plan.conditions["size"] == "of the exported file: npz"
    assert "numpy" in capsys.readouterr().out
    with pytest.raises(ExportError, match="npz files hold linear layers"):
        rc.export(nn.Conv2d(3, 4, 3), "other", format="npz", example_inputs=torch.randn(1, 3, 8, 8))
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 4 * 4, 8), nn.ReLU(), nn.Linear(8, 2))
    images = np.random.default_rng(0).integers(0, 256, (4, 3, 4, 4), dtype=np.uint8)
    exported = rc.export(model, "pictures", format="npz", example_inputs=torch.randn(1, 3, 4, 4))
    write_bundle(
        "device.tar.gz",
        [exported],
        preprocessing=Preprocessing((3, 4, 4), (0.5,) * 3, (0.25,) * 3, ("a", "b")),
        images=images,
        images_from="noise",
        model="two layers",
        results={},
    )
    with tarfile.open("device.tar.gz") as archive:
        archive.extractall(tmp_path)  # our own archive; Python 3.11.2 takes no filter
    done = subprocess.run([sys.executable, "-I", "device/run.py", "test"], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "passed  model.npz: 4 of 4 labels the same" in done.stdout, done.stderr
