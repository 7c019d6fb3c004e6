"""Budgets on an NPU by its compiler, the compiled file and its bundle; and rooflines, which need no compiler.

The compiler and LiteRT are in an environment of their own: ``make test-npu``.
"""

from __future__ import annotations

import importlib.util
import tarfile
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import reconvene as rc
from reconvene import artifact, cli, workflow
from reconvene.costs import COSTS, Budget, cost_file, targets
from reconvene.data import load_data
from reconvene.deploy.npu import _refuse_processor
from reconvene.errors import CostFileError, ExportError, MissingExtraError
from reconvene.models import resolve_address
from reconvene.planning.measuring.npu_costs import NpuCompiler
from reconvene.structure import analyse

TARGET = "ethos-u55-128"
X = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
with_compiler = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("ethosu", "litert_torch")),
    reason="Vela and LiteRT are in an environment of their own: make test-npu",
)


OWN = """
from torch import nn


def make():
    first = [nn.Conv2d(3, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU()]
    second = [nn.Conv2d(32, 32, 3, 2, 1), nn.BatchNorm2d(32), nn.ReLU()]
    return nn.Sequential(*first, *second, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10))
"""


class Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs))
        self.second = nn.Sequential(nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs))
        changes = stride > 1 or inputs != outputs
        self.shortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False) if changes else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.second(torch.relu(self.first(x))) + self.shortcut(x))


def mini(first: int = 16, second: int = 32, third: int = 64) -> nn.Module:
    torch.manual_seed(0)
    stem = [nn.Conv2d(3, first, 3, 1, 1, bias=False), nn.BatchNorm2d(first), nn.ReLU()]
    blocks = [Block(first, first, 1), Block(first, second, 2), Block(second, third, 2)]
    return nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(third, 10)).eval()


# Without the compiler.


def test_every_ethos_target_names_its_compiler() -> None:
    chips = [name for name in targets() if name.startswith("ethos-")]
    assert len(chips) == 6
    for name in chips:
        file = cost_file(name)
        assert file.compiler is not None and (file.compiler.name, file.compiler.accelerator) == ("vela", name)


def test_the_prediction_rises_in_blocks_of_eight_channels() -> None:
    """As the compiler counts, and unlike multiply-accumulates."""
    cycles, macs = [], []
    for widths in ((8, 16, 32), (9, 17, 33)):
        structure = analyse(mini(*widths), X, trial=False)
        for cost, amounts in ((cost_file(TARGET).costs["cycles"], cycles), (COSTS["macs"], macs)):
            amounts.append(cost.bind(structure, None).at(structure.widths))
    assert macs[1] / macs[0] < 1.2 and cycles[1] / cycles[0] > 1.5


def test_a_compiler_that_is_not_known_is_refused(tmp_path: Path) -> None:
    text = targets()[TARGET].read_text().replace('name = "vela"', 'name = "gcc"')
    (tmp_path / "mine.toml").write_text(text)
    with pytest.raises(CostFileError, match=r"compiler\.name='gcc' is none of vela"):
        cost_file(tmp_path / "mine.toml")


def test_operators_that_are_left_to_the_processor_are_named() -> None:
    told = (
        "Warning (supported operators) operator: RELU, ofm: 'a'\nReason: Unsupported opType (a)\nCPU operators = 2 (4%)"
    )
    settings = cost_file(TARGET).compiler
    assert settings is not None
    with pytest.raises(ExportError, match=r"2 operators of m.tflite cannot run on ethos-u55-128.*RELU \(Unsupported"):
        _refuse_processor(told, Path("m.tflite"), settings)
    _refuse_processor("CPU operators = 0 (0.0%)", Path("m.tflite"), settings)


@pytest.mark.skipif(importlib.util.find_spec("litert_torch") is not None, reason="the compiler is here")
def test_without_the_compiler_the_extra_is_named() -> None:
    with pytest.raises(MissingExtraError, match=r"in the clone, pip install '\.\[litert,npu\]'"):
        rc.plan(mini(8, 8, 8), X, budget=Budget(cycles="2x"), target=TARGET)


def test_a_roofline_answers_to_latency() -> None:
    """Of one layer: the longer of products at 1 GMAC/s and traffic at 200 MB/s."""
    net = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.Conv2d(16, 8, 1, bias=False))
    plan = rc.plan(net, X, budget=Budget(latency="2x"), target="roofline")
    first = max(27 * 16 * 1024 / 1e9, (27 * 16 + 16 * 1024) / 2e8)
    second = max(16 * 8 * 1024 / 1e9, (16 * 8 + 8 * 1024) / 2e8)
    assert plan.costs["dense"]["latency"] == pytest.approx(first + second)
    assert plan.costs["pruned"]["latency"] <= plan.costs["dense"]["latency"] / 2
    assert "roofline" in plan.conditions["latency"]


# With it.


@with_compiler
@pytest.mark.parametrize("share", [0.8, 0.6, 0.45, 0.35, 0.25])
def test_a_budget_on_cycles_is_kept_and_used(share: float) -> None:
    model = mini()
    plan = rc.plan(model, X, budget=Budget(cycles=share), target=TARGET)
    settings = cost_file(TARGET).compiler
    assert settings is not None
    limit, compiled = plan.limits["cycles"], NpuCompiler(settings).compile(plan.apply(model), X)  # none on the CPU
    assert 0.9 * limit <= compiled.cycles <= limit
    assert compiled.cycles == plan.costs["pruned"]["cycles"]


@with_compiler
def test_widths_by_the_compiler_differ_from_widths_by_macs() -> None:
    model, settings = mini(), cost_file(TARGET).compiler
    assert settings is not None
    by_cycles = rc.plan(model, X, budget=Budget(cycles=0.4), target=TARGET)
    by_macs = rc.plan(model, X, budget=Budget(macs=int(by_cycles.costs["pruned"]["macs"])), round_to=1)
    assert by_macs.widths.tolist() != by_cycles.widths.tolist()
    assert by_macs.costs["pruned"]["macs"] <= by_cycles.costs["pruned"]["macs"]
    assert NpuCompiler(settings).compile(by_macs.apply(model), X).cycles > by_cycles.costs["pruned"]["cycles"]


@with_compiler
def test_one_channel_beyond_a_block_of_eight_costs_as_much_as_eight() -> None:
    settings = cost_file(TARGET).compiler
    assert settings is not None
    narrow, wide = (NpuCompiler(settings).compile(mini(*widths), X).cycles for widths in ((8, 16, 32), (9, 17, 33)))
    assert wide / narrow > 1.7  # for 17 % more multiply-accumulates


@with_compiler
def test_sram_and_flash_are_kept() -> None:
    plan = rc.plan(mini(), X, budget=Budget(sram="40KiB", flash="50kB"), target=TARGET)
    assert plan.costs["pruned"]["sram"] <= 40 * 1024 and plan.costs["pruned"]["flash"] <= 50_000


@with_compiler
def test_the_compiled_file_lies_in_the_artifact_and_in_the_bundle(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, archive = tmp_path / "small", tmp_path / "chip.tar.gz"
    (tmp_path / "net.py").write_text(OWN)
    own = [f"{tmp_path / 'net.py'}:make", "--allow-import", "--input", "3x16x16"]
    assert cli.main(["prune", *own, "--cycles", "1.5x", "--target", TARGET, "-o", str(folder)]) == 0
    data = load_data("digits", input_shape=(3, 16, 16), limit=200)
    workflow.train(folder, data, epochs=1, allow_import=True)
    export = ["export", str(folder), "--to", "litert", "--quantize", "int8", "--data", "digits", "--allow-import"]
    limits = ["--min-agreement", "0", "--min-sqnr", "0", "--max-accuracy-drop", "1"]
    assert cli.main([*export, *limits, "--bundle", str(archive)]) == 0
    assert "model.int8.vela.tflite for ethos-u55-128" in capsys.readouterr().out
    plan = artifact.read_plan(folder)
    assert plan is not None and plan.costs["pruned"]["cycles"] <= plan.costs["dense"]["cycles"] / 1.5
    assert (folder / "model.int8.vela.tflite").is_file()
    with tarfile.open(archive) as packed:
        assert "chip/model.int8.vela.tflite" in packed.getnames()


@with_compiler
def test_models_of_ours_run_on_the_npu_alone() -> None:
    settings = cost_file(TARGET).compiler
    assert settings is not None
    for name in ("resnet20", "vgg16_bn"):
        model = resolve_address(name, {"width": 0.25}).build().eval()
        assert NpuCompiler(settings).compile(model, X).cycles > 0
