"""Widths and bits together: the quantiser, the decision, and plans that hold one."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import reconvene as rc
from mini_resnet import mini_resnet
from reconvene.errors import PlanError
from reconvene.quantiser import fake_quantised, largest, noise_ratio, quantise
from reconvene.quantiser.fake import stop_quantised, train_quantised
from reconvene.surgery.bits import BitPlan, LayerBits

IMAGE = torch.zeros(1, 3, 32, 32)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_gaussian_weights_get_the_noise_that_untrained_plans_reckon_with(bits: int) -> None:
    weight = torch.randn(256, 256, generator=torch.Generator().manual_seed(0))
    quantised = quantise(weight, bits)
    error = (quantised.values - weight).square().sum() / weight.square().sum()
    assert float(error) == pytest.approx(noise_ratio(bits), rel=0.06 if bits < 8 else 0.2)
    assert int(quantised.integers.abs().max()) == largest(bits)


def test_no_scale_of_a_grid_is_better_than_the_one_of_the_search() -> None:
    weight = torch.randn(8, 40, generator=torch.Generator().manual_seed(1)) ** 3
    for bits in (2, 4):
        error = (quantise(weight, bits).values - weight).square().sum(dim=1)
        for share in torch.linspace(0.05, 1, 400):
            scale = weight.abs().amax(dim=1, keepdim=True) / largest(bits) * share
            grid = torch.round(weight / scale).clamp(-largest(bits), largest(bits)) * scale
            assert bool((error <= 1.02 * (grid - weight).square().sum(dim=1)).all())


def test_rounding_is_to_even_symmetric_and_a_channel_has_its_own_scale() -> None:
    weight = torch.tensor([[127.0, 0.5, 1.5, -0.5, -1.5], [254.0, 1.0, 3.0, -1.0, -3.0], [0.0] * 5])
    quantised = quantise(weight, 8)
    assert quantised.integers.tolist() == [[127, 0, 2, 0, -2]] * 2 + [[0] * 5]
    assert quantised.scale.tolist() == [1.0, 2.0, 1.0]
    mixed = quantise(torch.randn(4, 3, 3, 3), np.array([2, 4, 8, 2]))
    assert [int(row.abs().max()) for row in mixed.integers] == [1, 7, 127, 1]
    columns = torch.randn(6, 4)
    assert torch.equal(quantise(columns, 4, axis=1).values, quantise(columns.T, 4).values.T)


def test_rounded_weights_are_rounded_again_to_themselves() -> None:
    weight = torch.randn(16, 27, generator=torch.Generator().manual_seed(3))
    for bits in (2, 3, 4, 8):
        once = quantise(weight, bits).values
        assert torch.allclose(quantise(once, bits).values, once, atol=1e-6)


def test_training_with_rounded_weights_moves_the_weights_themselves() -> None:
    model = nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 2))
    bits = {"0.weight": (0, np.array([2, 4, 8, 2])), "2.weight": (0, np.array([4, 4]))}
    expected = fake_quantised(model, bits)
    before = model[0].weight.detach().clone()
    train_quantised(model, bits)
    data = torch.randn(5, 6)
    assert torch.allclose(model(data), expected(data), atol=1e-6)
    model(data).square().sum().backward()
    torch.optim.SGD(model.parameters(), 0.1).step()
    stop_quantised(model, bits)
    assert not torch.equal(model[0].weight, before) and isinstance(model[0].weight, nn.Parameter)
    assert set(model.state_dict()) == set(expected.state_dict())


def test_a_plan_keeps_its_bits_on_disk_and_plans_without_bits_are_as_before(tmp_path: Path) -> None:
    plan = rc.plan(mini_resnet(), IMAGE, budget=rc.Budget(params="2x"))
    assert plan.to_dict()["version"] == 1 and "bits" not in plan.to_dict()
    assert rc.Plan.from_dict(plan.to_dict()).bits is None
    plan.bits = BitPlan({"stem.0.weight": LayerBits(0, np.array([2, 8, 2, 4]))})
    plan.save(tmp_path / "plan.json")
    loaded = rc.Plan.load(tmp_path / "plan.json")
    assert loaded == plan and loaded.bits.layers["stem.0.weight"].bits.tolist() == [2, 8, 2, 4]
    assert json.loads((tmp_path / "plan.json").read_text())["version"] == 2
    assert "2 of 2, 1 of 4, 1 of 8" in str(loaded)


@pytest.mark.parametrize("bits", [{"2": "0-1"}, {"2": "0", "4": "0"}, {"2": "1"}, {"99": "0"}, {"x": "0"}, 3])
def test_damaged_bits_are_an_error_of_ours(bits: object) -> None:
    good = {"activations": 8, "layers": {"a": {"axis": 0, "bits": {"2": "0-1"}}}}
    assert BitPlan.from_dict(good).to_dict() == good
    if bits != {"2": "0-1"}:
        with pytest.raises(PlanError, match="bits of"):
            BitPlan.from_dict({"activations": 8, "layers": {"a": {"axis": 0, "bits": bits}}})
