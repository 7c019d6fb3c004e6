"""Rectification: touched layers spread as the dense ones did, untouched ones keep every byte, the rest stays."""

from __future__ import annotations

import copy
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from reconvene.errors import ModelError, PlanError, UnknownNameError
from reconvene.models import MODELS
from reconvene.rectifier import RectifyReport, SpreadRow, calibration_batch, output_spread, rectify
from reconvene.structure import analyse
from reconvene.surgery import Accounting, PlanRow, make_plan
from reconvene.surgery.ranges import to_text


class Small(nn.Module):
    """Three convolutions with norms, a residual sum, and a classifier; ``width`` channels."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.norm1 = nn.BatchNorm2d(width)
        self.mid = nn.Conv2d(width, width, 3, padding=1)
        self.norm2 = nn.BatchNorm2d(width)
        self.side = nn.Conv2d(3, width, 1)
        self.fixed = nn.Conv2d(3, 5, 1)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(width, 10)

    def forward(self, x):
        z = self.norm1(self.stem(x)).relu()
        z = (self.norm2(self.mid(z)) + self.side(x)).relu()
        return self.head(self.drop(z.mean((2, 3)))) + self.fixed(x).mean()


TOUCHED = ["stem", "norm1", "mid", "norm2", "side", "head"]
EXAMPLE = torch.zeros(1, 3, 8, 8)


def seeded(make, seed=0):
    torch.manual_seed(seed)
    return make()


def pair(dense_width=64, width=12, example=EXAMPLE, seed=0):
    """A dense network, a smaller one with other weights, and the plan between them."""
    dense, small = seeded(lambda: Small(dense_width), 1), seeded(lambda: Small(width), 2)
    small.fixed.load_state_dict(dense.fixed.state_dict())
    plan = SimpleNamespace(touched=list(TOUCHED), spread=output_spread(dense, example, seed=seed), seed=seed)
    return dense, small, plan


def state(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def rows(report):
    return {row.layer: row for row in report.rows}


@pytest.mark.parametrize("how", ["reinit", "rescale"])
@pytest.mark.parametrize("width", [2, 12, 40])
def test_every_layer_spreads_as_the_dense_one_did(how, width):
    _, small, plan = pair(width=width)
    report = rectify(small, plan, EXAMPLE, how)
    assert report.outside == ()
    measured = output_spread(small, EXAMPLE, seed=plan.seed)
    for name in ("stem", "mid", "side", "head"):
        assert measured[name] == pytest.approx(plan.spread[name], rel=0.01)
        assert rows(report)[name].after == measured[name]


def test_hooks_from_outside_see_the_same_spread():
    _, small, plan = pair()
    rectify(small, plan, EXAMPLE)
    seen = {}
    for name in ("stem", "mid"):
        small.get_submodule(name).register_forward_hook(lambda m, i, o, n=name: seen.update({n: float(o.std())}))
    with torch.no_grad():
        small.eval()(calibration_batch(EXAMPLE, seed=plan.seed))
    assert seen == {name: pytest.approx(plan.spread[name], rel=0.01) for name in ("stem", "mid")}


def test_keep_changes_nothing_and_still_reports():
    _, small, plan = pair()
    before = state(small)
    report = rectify(small, plan, EXAMPLE, "keep")
    assert all(torch.equal(before[name], tensor) for name, tensor in small.state_dict().items())
    assert rows(report)["stem"].before == rows(report)["stem"].after
    assert rows(report)["mid"].action == "kept"


@pytest.mark.parametrize("how", ["reinit", "rescale"])
def test_untouched_layers_keep_every_byte(how):
    _, small, plan = pair()
    before = state(small)
    rectify(small, plan, EXAMPLE, how)
    for name in ("fixed.weight", "fixed.bias"):
        assert torch.equal(before[name], small.state_dict()[name])
    assert not torch.equal(before["mid.weight"], small.mid.weight)


def test_rescale_keeps_directions_and_norms():
    _, small, plan = pair()
    small.norm1.running_mean.normal_()
    before = state(small)
    rectify(small, plan, EXAMPLE, "rescale")
    ratio = small.mid.weight / before["mid.weight"]
    assert torch.allclose(ratio, ratio.flatten()[0].expand_as(ratio), rtol=1e-4)
    assert torch.allclose(small.mid.bias / before["mid.bias"], ratio.flatten()[0], rtol=1e-4)
    assert torch.equal(before["norm1.running_mean"], small.norm1.running_mean)


def test_the_same_seed_draws_the_same_bytes_and_another_seed_others():
    _, small, plan = pair()
    runs = []
    for seed in (None, 0, 1):
        copied = copy.deepcopy(small)
        torch.manual_seed(99 if seed is None else 5)
        report = rectify(copied, plan, EXAMPLE, seed=seed)
        runs.append((state(copied), report.to_json()))
    assert runs[0][1] == runs[1][1] and runs[0][1] != runs[2][1]
    assert all(torch.equal(runs[0][0][name], runs[1][0][name]) for name in runs[0][0])
    assert not torch.equal(runs[0][0]["mid.weight"], runs[2][0]["mid.weight"])


def test_reinit_does_not_depend_on_the_weights_that_were_there():
    _, small, plan = pair()
    other = copy.deepcopy(small)
    with torch.no_grad():
        for name in ("stem", "mid", "side", "head"):
            other.get_submodule(name).weight.normal_()
    rectify(small, plan, EXAMPLE)
    rectify(other, plan, EXAMPLE)
    assert torch.allclose(small.mid.weight, other.mid.weight, rtol=1e-5)


def test_mode_hooks_gradients_and_random_state_are_as_before():
    _, small, plan = pair()
    small.train()
    small.norm1.eval()
    small.mid.weight.requires_grad_(True)
    torch.manual_seed(7)
    random = torch.get_rng_state()
    rectify(small, plan, EXAMPLE)
    output_spread(small, EXAMPLE)
    assert torch.equal(random, torch.get_rng_state())
    assert small.training and small.mid.training and not small.norm1.training
    assert all(not m._forward_hooks and not m._forward_pre_hooks for m in small.modules())
    assert all(p.requires_grad and p.grad is None for p in small.parameters())


class Remembers(nn.Module):
    """Keeps a table of its weights from the first forward pass in eval mode on, as LeViT does with its biases."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.table = None

    def forward(self, x):
        if not self.training and self.table is None:
            self.table = self.layer.weight.detach().sum(0)
        return self.layer(x) + (self.layer.weight.sum(0) if self.training else self.table)


def test_no_table_of_old_weights_stays_behind():
    model = seeded(Remembers)
    plan = SimpleNamespace(touched=["layer"], spread={"layer": 3.0}, seed=0)
    rectify(model, plan, torch.randn(8, 4))
    x = torch.randn(2, 4)
    assert model.table is None
    assert torch.equal(model.eval()(x), model.train()(x))


def test_norms_are_reset_but_choices_stay():
    _, small, plan = pair()
    with torch.no_grad():
        for norm in (small.norm1, small.norm2):
            norm.running_mean.normal_()
            norm.running_var.uniform_(1, 2)
            norm.num_batches_tracked.fill_(9)
        small.norm1.weight.uniform_(0.5, 2)
        small.norm1.bias.normal_()
        small.norm2.weight.zero_()
    report = rectify(small, plan, EXAMPLE)
    assert torch.equal(small.norm1.weight, torch.ones(12)) and torch.equal(small.norm1.bias, torch.zeros(12))
    assert torch.equal(small.norm2.weight, torch.zeros(12)), "a zero scale silences a residual branch on purpose"
    for norm in (small.norm1, small.norm2):
        assert torch.equal(norm.running_mean, torch.zeros(12)) and torch.equal(norm.running_var, torch.ones(12))
        assert int(norm.num_batches_tracked) == 0
    assert rows(report)["norm1"].action == "norm reset" and rows(report)["norm1"].ratio is None


def test_drawn_biases_become_zero_and_chosen_ones_stay():
    _, small, plan = pair()
    with torch.no_grad():
        small.head.bias.fill_(-4.6)
    rectify(small, plan, EXAMPLE)
    assert torch.equal(small.mid.bias, torch.zeros(12))
    assert torch.equal(small.head.bias, torch.full((10,), -4.6))


def test_fresh_weights_are_centred_and_never_a_silenced_layer():
    _, small, plan = pair(width=1)
    for seed in range(20):
        rectify(small, plan, EXAMPLE, seed=seed)
        assert all(value > 0 for value in output_spread(small, EXAMPLE, seed=plan.seed).values())
    _, wide, plan = pair(width=64)
    rectify(wide, plan, EXAMPLE)
    weight = wide.mid.weight.detach()
    assert abs(float(weight.mean())) < 0.02 * float(weight.std())
    assert float(weight.std()) > 0


class Odd(nn.Module):
    """Layers that cannot be handled like others, each for a reason of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 8, bias=False)
        self.again = nn.Linear(8, 8)
        self.tied = nn.Linear(8, 8, bias=False)
        self.tied.weight = self.again.weight
        self.never = nn.Linear(8, 8)
        self.zero = nn.Linear(8, 8, bias=False)
        nn.init.zeros_(self.zero.weight)
        self.frozen = nn.Linear(8, 8)
        self.frozen.requires_grad_(False)
        self.two = nn.Module()
        self.functional = nn.Linear(8, 8)
        self.silent = nn.Linear(8, 8, bias=False)
        self.last = nn.Linear(8, 4)

    def forward(self, x):
        z = self.again(self.again(self.first(x)))
        z = self.tied(z) + self.frozen(z) + self.zero(z)
        z = nn.functional.linear(z, self.functional.weight, self.functional.bias)
        return self.last(z) + self.silent(z * 0).sum()


def test_layers_that_cannot_be_scaled_keep_their_weights_and_say_why():
    model = seeded(Odd)
    example = torch.randn(16, 6, generator=torch.Generator().manual_seed(3))
    touched = ["first", "again", "tied", "never", "zero", "frozen", "functional", "silent", "last"]
    plan = SimpleNamespace(touched=touched, spread=output_spread(model, example, seed=0), seed=0)
    before = state(model)
    report = rows(rectify(model, plan, example))
    assert report["first"].action == report["again"].action == report["last"].action == "reinitialized"
    assert report["tied"].action == "kept: tied to again"
    assert report["never"].action == report["functional"].action == "kept: never called by itself, or not finite"
    assert report["zero"].action == "kept: all zero by choice"
    assert report["frozen"].action == "kept: frozen"
    assert report["silent"].action == "kept: silent in the dense network"
    for name in ("never", "functional", "zero", "frozen", "silent"):
        assert torch.equal(before[f"{name}.weight"], model.get_submodule(name).weight)
    assert report["never"].ratio is None and report["silent"].ratio is None


class Standardised(nn.Linear):
    """Its output does not change when its weight is scaled."""

    def forward(self, x):
        return nn.functional.linear(x, self.weight / self.weight.norm(), self.bias)


def test_a_weight_whose_scale_does_not_matter_is_reported_and_not_blown_up():
    model = nn.Sequential(Standardised(6, 8), nn.Linear(8, 4))
    example = torch.randn(16, 6)
    plan = SimpleNamespace(touched=["0", "1"], spread={"0": 1e6, "1": 1.0}, seed=0)
    report = rows(rectify(model, plan, example))
    assert "does not follow its weight" in report["0"].action
    assert float(model[0].weight.detach().std()) < 10
    assert report["1"].after == pytest.approx(1.0, rel=0.01)


def test_a_layer_without_signal_is_reported():
    class Dead(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Linear(6, 8, bias=False)

        def forward(self, x):
            return self.a(x * 0)

    model = Dead()
    plan = SimpleNamespace(touched=["a"], spread={"a": 1.0}, seed=0)
    report = rectify(model, plan, torch.randn(4, 6))
    assert report.rows[0].action == "reinitialized, not scaled: no signal reaches it"
    assert report.rows[0].ratio == 0.0 and report.outside == report.rows


def test_calibration_batches():
    ones = calibration_batch(torch.zeros(1, 3, 8, 8), seed=0)
    assert ones.shape == (8, 3, 8, 8) and abs(float(ones.std()) - 1) < 0.1
    assert calibration_batch(torch.zeros(1, 3, 224, 224), seed=0).shape[0] == 2
    assert torch.equal(ones, calibration_batch(torch.ones(1, 3, 8, 8), seed=0))
    assert not torch.equal(ones, calibration_batch(torch.ones(1, 3, 8, 8), seed=1))
    real = torch.randn(4, 3, 8, 8)
    assert torch.equal(calibration_batch(real, seed=0), real)
    assert float(calibration_batch(torch.zeros(4, 3, 8, 8), seed=0).std()) > 0.9
    tokens = {"ids": torch.arange(5)[None], "mask": torch.ones(1, 5)}
    batch = calibration_batch(tokens, seed=0)
    assert batch["ids"].shape[0] == batch["mask"].shape[0] == 8 and torch.equal(batch["ids"][3], torch.arange(5))
    assert calibration_batch(torch.zeros(1, 3, dtype=torch.bfloat16), seed=0).dtype == torch.bfloat16


def test_the_first_call_counts_and_layers_come_in_the_order_of_calls():
    model = seeded(Odd)
    example = torch.randn(16, 6)
    found = output_spread(model, example)
    assert list(found) == ["first", "again", "tied", "frozen", "zero", "last", "silent"]
    with torch.no_grad():
        expected = model.again(model.first(example)).std(correction=0)
    assert found["again"] == pytest.approx(float(expected), rel=1e-5)


def test_a_model_that_does_not_run_on_the_batch_says_which_shapes():
    class Picky(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Linear(6, 8)

        def forward(self, x):
            return self.a(x.view(1, 6))

    model = Picky()
    assert list(output_spread(model, torch.randn(1, 6))) == ["a"], "a fixed batch of one is measured on one sample"
    plan = SimpleNamespace(touched=["a"], spread={"a": 3.0}, seed=0)
    assert rectify(model, plan, torch.randn(1, 6)).rows[0].after == pytest.approx(3.0, rel=0.01)
    model.train()
    with pytest.raises(ModelError, match=r"calibration batch of shapes \(2, 6\)"):
        output_spread(model, torch.randn(2, 6))
    assert model.training and model.a.training and not model.a._forward_hooks


def test_an_unknown_way_or_module_is_refused_before_anything_changes():
    _, small, plan = pair()
    before = state(small)
    with pytest.raises(UnknownNameError, match="keep, recalibrate, reconstruct, reinit, rescale"):
        rectify(small, plan, EXAMPLE, "guess")
    plan.touched.append("nowhere")
    with pytest.raises(PlanError, match="nowhere"):
        rectify(small, plan, EXAMPLE)
    assert all(torch.equal(before[name], tensor) for name, tensor in small.state_dict().items())


def test_the_report_prints_and_serialises():
    report = RectifyReport(
        "reinit",
        0,
        (SpreadRow("a", "Linear", True, "reinitialized", 2.0, 1.0, 3.0), SpreadRow("n", "Norm", True, "norm reset")),
    )
    assert [row.layer for row in report.outside] == ["a"] and report.rows[0].ratio == 1.5
    assert "0 of 1 measured layers within [0.8, 1.25]" in str(report) and "1.5" in str(report)
    parsed = json.loads(report.to_json())
    assert parsed["outside"] == 1 and parsed["rows"][1]["ratio"] is None


@pytest.mark.parametrize("name", ["vgg16_bn", "resnet18", "resnet20", "mobilenetv2", "unet"])
def test_reference_networks_cut_to_a_plan_are_healthy_again(name):
    model = seeded(MODELS[name])
    example = torch.zeros(1, 3, 32, 32)
    structure = analyse(model, example)
    random = np.random.default_rng(0)
    # Every third group stays whole, so that there are untouched layers too.
    shares = [(0.25, 0.5, 1.0)[g % 3] for g in range(len(structure.prunable))]
    keep = [
        np.sort(random.permutation(group.width)[: max(1, int(share * group.width))])
        for group, share in zip(structure.prunable, shares, strict=True)
    ]
    rows = [PlanRow(g.name, g.width, len(k), to_text(k)) for g, k in zip(structure.prunable, keep, strict=True)]
    plan = make_plan(model, structure, keep, rows, accounting=Accounting(spread=output_spread(model, example)))
    cut = rectify(plan.apply(model), plan, example, "keep")
    assert len(cut.outside) > len(cut.rows) // 4, "surgery alone must be seen to hurt, or this test shows nothing"
    for how in ("reinit", "rescale"):
        report = rectify(plan.apply(model), plan, example, how)
        assert report.outside == (), str(report)
