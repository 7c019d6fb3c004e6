"""Costs as data files: the anchors of the packaged ones, and what a file of one's own may and may not say."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import reconvene as rc
from reconvene.costs import cost_file, targets
from reconvene.costs.cost_file import FORMAT
from reconvene.costs.formula import Formula
from reconvene.costs.layers import LayerTable
from reconvene.errors import BudgetError, CostFileError, UnknownNameError
from reconvene.structure import analyse
from support.mini_resnet import mini_resnet
from support.paths import ROOT

IMAGE = torch.zeros(1, 3, 32, 32)
# MiniResNet 16-32-64 with activations of 8 bits, as the public reference counts: weights of 8, 4 and 2 bits.
ANCHORS = {
    ("bits", "params_bit"): (582_016, 291_008, 145_504),
    ("bits", "ops_bit"): (498_114_560, 249_057_280, 124_528_640),
    ("mpic", "cycles"): (3_731_570.5, 3_407_086.0, 3_134_519.25),
    ("ne16", "cycles"): (104_179, 68_787, 51_091),
}
CHIP = {
    "format": FORMAT,
    "name": "mine",
    "title": "a chip of ours",
    "weights": [4, 8],
    "activations": 8,
    "tables": {"rate": {"4": 8, "8": 4}},
    "costs": {
        "cycles": {
            "label": "Cycles",
            "unit": "cycles",
            "meaning": "Cycles.",
            "layers": [{"kinds": ["convolution", "linear"], "tile": 8, "amount": "ceil(macs / rate[w]) + 10"}],
        }
    },
}


def write(folder: Path, **changes: object) -> Path:
    path = folder / "mine.json"
    path.write_text(json.dumps({**CHIP, **changes}))
    return path


@pytest.mark.parametrize(("file", "cost"), ANCHORS)
def test_packaged_files_give_the_anchors_to_the_last_digit(file: str, cost: str) -> None:
    structure = analyse(mini_resnet(), IMAGE)
    table = LayerTable(structure)
    sizes = table.at(structure.widths)
    costs = cost_file(file).costs[cost].layer_costs(table.layers)
    assert tuple(costs.at(sizes, [((w, s.outputs),) for s in sizes]) for w in (8, 4, 2)) == ANCHORS[file, cost]


@pytest.mark.parametrize(("read", "w", "rate"), [(4, 4, 3.5), (2, 2, 6.5), (4, 8, 2.1), (8, 4, 2.3)])
def test_cycles_of_mpic_follow_the_bits_of_what_a_layer_reads(read: int, w: int, rate: float) -> None:
    structure = analyse(mini_resnet(), IMAGE)
    table = LayerTable(structure)
    costs = cost_file("mpic").costs["cycles"].layer_costs(table.layers)
    for number, (layer, size) in enumerate(zip(table.layers, table.at(structure.widths), strict=True)):
        outputs = size.outputs * math.prod(size.spatial)
        products = outputs * size.inputs * math.prod(layer.kernel)
        cycles = costs.of(number, size, ((w, size.outputs),), read)
        assert cycles == pytest.approx((products + outputs) / rate)


def test_energy_of_mpic_follows_from_its_cycles() -> None:
    structure = analyse(mini_resnet(), IMAGE)
    table = LayerTable(structure)
    sizes = table.at(structure.widths)
    costs = cost_file("mpic").costs["energy"].layer_costs(table.layers)
    joules = [costs.at(sizes, [((w, s.outputs),) for s in sizes]) for w in (8, 4, 2)]
    assert [f"{value:.4e}" for value in joules] == ["8.0341e-05", "7.3355e-05", "6.7486e-05"]


def test_costs_follow_widths_and_the_mixture_of_bits_in_a_layer() -> None:
    structure = analyse(mini_resnet(), IMAGE)
    table = LayerTable(structure)
    halves = np.maximum(structure.widths // 2, 1)
    sizes = table.at(halves)
    small = mini_resnet((8, 16, 32))
    smaller = analyse(small, IMAGE)
    assert sizes == LayerTable(smaller).at(smaller.widths)
    costs = cost_file("bits").costs["params_bit"].layer_costs(table.layers)
    mixed = costs.at(sizes, [((2, 3), (8, s.outputs - 3)) for s in sizes])
    by_hand = sum(
        m.weight[0].numel() * (3 * 2 + (len(m.weight) - 3) * 8)
        for m in small.modules()
        if hasattr(m, "weight") and m.weight.ndim > 1
    )
    assert mixed == by_hand
    engine = cost_file("ne16").costs["cycles"].layer_costs(table.layers)
    # Channels of different bits lie in different tiles, so a mixture takes more tiles than one width of bits.
    assert (
        engine.of(1, sizes[1], ((4, 8), (8, 8)))
        > (engine.of(1, sizes[1], ((4, 16),)) + engine.of(1, sizes[1], ((8, 16),))) / 2
    )


def test_a_weight_of_a_linear_layer_is_known_whichever_way_it_is_read() -> None:
    model = nn.Sequential(nn.TransformerEncoderLayer(16, 2, 32, batch_first=True))
    layers = LayerTable(analyse(model, torch.zeros(1, 5, 16))).layers
    assert [
        (layer.kind, layer.weight.removeprefix("0."), layer.axis) for layer in layers if layer.kind == "linear"
    ] == [
        ("linear", "self_attn.in_proj_weight", 0),
        ("linear", "self_attn.out_proj.weight", 0),
        ("linear", "linear1.weight", 0),
        ("linear", "linear2.weight", 0),
    ]
    assert sum(layer.kind == "product" for layer in layers) == 2


def test_a_target_answers_to_budgets_on_cycles_and_energy() -> None:
    model = mini_resnet()
    plan = rc.plan(model, IMAGE, budget=rc.Budget(cycles="2x"), target="mpic")
    assert plan.costs["pruned"]["cycles"] <= plan.limits["cycles"] == plan.costs["dense"]["cycles"] / 2
    assert plan.costs["pruned"]["energy"] < plan.costs["dense"]["energy"] and plan.conditions["cycles"].startswith(
        "on MPIC"
    )
    small = plan.apply(model)
    assert (
        rc.plan(small, IMAGE, budget=rc.Budget(params=10**9), target="mpic").costs["dense"]["cycles"]
        == plan.costs["pruned"]["cycles"]
    )
    plan = rc.plan(model, IMAGE, budget=rc.Budget(ops_bit="120M"))
    assert plan.costs["pruned"]["ops_bit"] <= 120e6


def test_a_budget_on_a_chip_needs_one() -> None:
    with pytest.raises(BudgetError, match=r"depend on a chip.*target='mpic'"):
        rc.plan(mini_resnet(), IMAGE, budget=rc.Budget(cycles="1M"))
    with pytest.raises(UnknownNameError, match="mpic"):
        rc.plan(mini_resnet(), IMAGE, budget=rc.Budget(cycles="1M"), target="mpicc")


def test_a_file_of_ones_own(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv2d(3, 20, 1), nn.ReLU(), nn.Flatten(), nn.Linear(80, 2))
    plan = rc.plan(model, torch.zeros(1, 3, 2, 2), budget=rc.Budget(params="2x"), target=write(tmp_path))
    # 20 channels are two tiles of 8 (96 MACs at 4 a cycle) and one of 4; the linear layer is one tile of 2.
    assert plan.costs["dense"]["cycles"] == 2 * (24 + 10) + (12 + 10) + (40 + 10)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"format": "x"}, "this release reads"),
        ({"weights": "8"}, "not a list of bits"),
        ({"wieghts": [8]}, "Did you mean 'weights'"),
        ({"costs": {}}, "defines no cost"),
        ({"tables": {"rate": {"a": 1}}}, "not a whole number"),
        ({"costs": {"cycles": {**CHIP["costs"]["cycles"], "unit": "hours"}}}, "unit='hours' is none of"),
        ({"costs": {"cycles": {**CHIP["costs"]["cycles"], "layers": 3}}}, r"write \[\[costs.cycles.layers\]\]"),
        ({"costs": {"cycles": {**CHIP["costs"]["cycles"], "layers": {}}}}, r"write \[\[costs.cycles.layers\]\]"),
        (
            {"costs": {"cycles": {**CHIP["costs"]["cycles"], "layers": [{"kinds": ["dense"]}]}}},
            "kinds=.'dense'. is not a list",
        ),
        ({"costs": {"cycles": {**CHIP["costs"]["cycles"], "layers": [{"kinds": ["linear"]}]}}}, "needs 'amount'"),
        ({"activations": "8"}, "activations='8' is not a number of bits from 1 to 16, such as 8"),
        ({"activations": [8, 0]}, r"activations=\[8, 0\] is not a list of bits from 1 to 16, such as \[2, 4, 8\]"),
        ({"single_precision": "true"}, "single_precision='true' is neither true nor false"),
        ({"tables": {"rate": {"8": "fast"}}}, "the entry of 8 is not a number, but 'fast'"),
        ({"tables": 3}, "tables is not a section"),
        ({"tables": {"rate": {"8": float("nan")}}}, "the entry of 8 is not a number, but nan"),
        ({"tables": {"max": {"8": 1}}}, "tables.max: max is a function or a size"),
        ({"tables": {"k": {"8": 1}}}, "tables.k: k is a function or a size"),
        ({"costs": {"max": CHIP["costs"]["cycles"]}}, "costs.max: max is a function"),
        ({"costs": {"cycles": {**CHIP["costs"]["cycles"], "unit": ["cycles"]}}}, "unit=.'cycles'. is none of"),
        (
            {"costs": {"cycles": {**CHIP["costs"]["cycles"], "of": "ops"}}},
            "cycles.of is the cost that a total",
        ),
        (
            {"costs": {"cycles": {**CHIP["costs"]["cycles"], "layers": [{"kinds": [["linear"]]}]}}},
            "kinds=.* is not a list",
        ),
    ],
)
def test_a_damaged_file_names_the_entry(tmp_path: Path, changes: dict[str, object], words: str) -> None:
    with pytest.raises(CostFileError, match=words):
        cost_file(write(tmp_path, **changes))


def test_a_layer_that_no_entry_is_about_is_named(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 5, groups=8), nn.Conv2d(8, 8, 1))
    with pytest.raises(CostFileError, match="says nothing of cycles for the depthwise 1 with a kernel of 5x5"):
        rc.plan(model, torch.zeros(1, 8, 8, 8), budget=rc.Budget(cycles="2x"), target=write(tmp_path))
    with pytest.raises(CostFileError, match="ne16"):
        rc.plan(model, torch.zeros(1, 8, 8, 8), budget=rc.Budget(cycles="2x"), target="ne16")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        *(
            (text, "is nothing that a formula may hold. It may hold numbers, + - * /")
            for text in ("__import__('os')", "k.real", "k ** 9", "[k]", "k if k else 1", "(lambda: 1)()", "True")
        ),
        ("nothing", "'nothing' is unknown. Known: k, w"),
        ("ceil", "'ceil' is unknown. Known: k, w"),
        ("rate[w] +", "cannot be read (invalid syntax"),
        ("ceil()", "ceil takes one number"),
        ("ceil(k, 2)", "ceil takes one number"),
        ("min(k)", "min takes two numbers or more"),
    ],
)
def test_a_formula_holds_arithmetic_only(text: str, words: str) -> None:
    with pytest.raises(CostFileError, match="here: .*" + re.escape(words)):
        Formula(text, ["k", "w"], {"rate": {8: 1.0}}, place="here")


def test_a_formula_says_what_it_lacks() -> None:
    formula = Formula("k / rate[w, 8]", ["k", "w"], {"rate": {(8, 8): 2.0}}, place="costs.cycles")
    assert formula({"k": 6, "w": 8}) == 3
    with pytest.raises(CostFileError, match=r"costs\.cycles: no table entry for"):
        formula({"k": 6, "w": 4})


def test_every_packaged_file_can_be_read() -> None:
    assert {"bits", "mpic", "ne16", "roofline", "ethos-u55-128"} <= set(targets())
    for name in targets():
        assert cost_file(name).name == name


def test_the_file_of_the_docs_is_one(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "extending" / "cost-file.md").read_text(encoding="utf-8")
    path = tmp_path / "mine.toml"
    path.write_text(page.partition("```toml\n")[2].partition("```")[0])
    file = cost_file(path)
    assert list(file.costs) == ["cycles", "energy"] and file.weights == (4, 8)
    exec(page.partition("```python\n")[2].partition("```")[0], {})


@pytest.mark.parametrize("name", ["bits", "mpic", "ne16", "roofline", "speck"])
def test_costs_are_those_of_one_example_whatever_the_batch(name: str) -> None:
    """As multiply-accumulates are: rows of a linear layer are examples, and its tiles are filled by one of them."""
    model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10))
    structures = [analyse(model, torch.zeros(batch, 3, 12, 12)) for batch in (1, 3, 8)]
    for cost in cost_file(name).costs.values():
        found = {cost.bind(structure, None).lower_bound(structure.widths) for structure in structures}
        assert len(found) == 1, f"{cost.name}: {found}"
