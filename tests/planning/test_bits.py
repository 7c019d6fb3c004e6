"""Widths and bits together: the quantiser, the decision, and plans that hold one."""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import reconvene as rc
from reconvene import devices
from reconvene.allocation.bit_problem import BitProblem, GroupChoices, InputChoices, WeightChoices
from reconvene.allocation.bit_solver import solve_bits
from reconvene.costs import COSTS, Cost, CostFunction, cost_file
from reconvene.devices.latency_cost import DeviceLatency
from reconvene.errors import ArgumentError, BudgetError, CriterionError, DeviceError, PlanError, StructureError
from reconvene.planning.bits.input_losses import input_losses_by_noise, input_losses_on_data
from reconvene.planning.bits.planner import check_bits
from reconvene.planning.bits.weight_losses import one_after_another
from reconvene.planning.options import Options
from reconvene.quantiser import fake_quantised, largest, noise_ratio, quantise
from reconvene.quantiser.activations import ActivationRange
from reconvene.quantiser.fake import round_while_training, stop_quantised
from reconvene.structure import analyse
from reconvene.surgery.bits import BitPlan, LayerBits
from support import device_fakes, paths
from support.mini_resnet import mini_resnet

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
    round_while_training(model, bits)
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
    plan = replace(plan, bits=BitPlan({"stem.0.weight": LayerBits.of(0, np.array([2, 8, 2, 4]))}))
    plan.save(tmp_path / "plan.json")
    loaded = rc.Plan.load(tmp_path / "plan.json")
    assert loaded == plan and loaded.bits.layers["stem.0.weight"].bits.tolist() == [2, 8, 2, 4]
    assert json.loads((tmp_path / "plan.json").read_text())["version"] == 2
    assert "2 of 2, 1 of 4, 1 of 8" in str(loaded)


@pytest.mark.parametrize("channels", [{"2": "0", "4": "0"}, {"2": "1"}, {"99": "0"}, {"x": "0"}, 3])
def test_damaged_bits_are_an_error_of_ours(channels: object) -> None:
    plan = rc.plan(mini_resnet((4, 4, 4)), IMAGE, budget=rc.Budget(params="2x"))
    plan = replace(plan, bits=BitPlan({"stem.0.weight": LayerBits.of(0, np.array([2, 2]))}))
    values = plan.to_dict()
    assert rc.Plan.from_dict(values) == plan
    values["bits"]["layers"]["stem.0.weight"]["channels"] = channels
    with pytest.raises(PlanError, match="bits"):
        rc.Plan.from_dict(values)


@dataclass(frozen=True)
class Sizes:
    outputs: int
    inputs: int


class Bytes:
    """Two layers: one of the channels that are decided, and one of two outputs that reads them."""

    names = ("size",)

    def sizes(self, widths):
        return [Sizes(int(widths[0]), 3), Sizes(2, int(widths[0]))]

    def part(self, name, number, size, counts, activations=None):
        read = 8 if activations is None else activations
        return float(sum(channels * (size.inputs * bits * read / 8 + 16) for bits, channels in counts))

    def beside(self, name, widths):
        return 0.0

    def total(self, name, layers, beside):
        return layers + beside


def tiny_problem(seed: int, channels: int, *, with_inputs: bool = False) -> BitProblem:
    generator, bits = np.random.default_rng(seed), (2, 4, 8)

    def losses(count):
        scale = generator.gamma(1.0, 1.0, (count, 1)) * generator.uniform(0.7, 1.4, (count, 3))
        return scale * np.array([0.19, 0.0124, 5e-5])

    first = WeightChoices("a", 0, (0,), np.zeros(channels, int), np.arange(channels), bits, losses(channels))
    second = WeightChoices("b", 0, (1,), np.full(2, -1), np.zeros(2, int), bits, losses(2))
    removal = first.loss[:, 0] / 0.19 * generator.uniform(0.5, 1.5, channels)
    group = GroupChoices(channels, np.arange(1, channels + 1), removal)
    read = [InputChoices((w,), (2, 4, 8), losses(1)[0]) for w in (0, 1)] if with_inputs else []
    whole = BitProblem([group], [first, second], Bytes(), {"size": 1.0}, 2, inputs=read)
    least, most = (whole.cost("size", decision) for decision in (whole.least(), whole.dense()))
    limit = least + (most - least) * generator.uniform(0.05, 0.95)
    return replace(whole, limits={"size": limit})


def least_loss_of_all(problem: BitProblem) -> float:
    best, channels = np.inf, problem.groups[0].width
    for kept in itertools.product([False, True], repeat=channels):
        for choice in itertools.product(range(3), repeat=sum(kept) + 2) if any(kept) else ():
            decision = problem.dense()
            decision.masks[0][:] = kept
            decision.choice[0][np.flatnonzero(kept)], decision.choice[1][:] = choice[:-2], choice[-2:]
            for read in itertools.product(range(3), repeat=len(problem.inputs)):
                decision.inputs[:] = read
                if problem.fits(decision):
                    best = min(best, problem.loss(decision))
    return best


@pytest.mark.parametrize(("channels", "with_inputs"), [(3, False), (2, True)])
@pytest.mark.parametrize("seed", range(12))
def test_on_tiny_networks_no_decision_is_better(seed: int, channels: int, with_inputs: bool) -> None:
    problem = tiny_problem(seed, channels, with_inputs=with_inputs)
    decision = solve_bits(problem)
    assert decision is not None and problem.fits(decision)
    assert problem.loss(decision) == pytest.approx(least_loss_of_all(problem), rel=1e-9)


def test_a_channel_loses_more_the_fewer_are_left() -> None:
    losses = one_after_another(np.array([3.0, 1.0, 2.0, 0.0]))
    assert losses.tolist() == [3 * 4 / 1, 1 * 4 / 3, 2 * 4 / 2, 0.0]
    equal = one_after_another(np.ones(64))
    assert np.sort(equal)[:32].sum() == pytest.approx(64 * np.log(2), rel=0.02)


@pytest.mark.parametrize("options", [{"bits": (0, 8)}, {"criterion": "obd", "round_to": 1}], ids=["bits", "obd"])
def test_no_group_of_a_trained_network_is_left_with_a_single_channel(options: dict[str, Any]) -> None:
    """Gradients at the end of training say that the last layers could leave altogether."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 4)
    )
    x = torch.randn(512, 8)
    labels = (x[:, 0] > 0).long() + 2 * (x[:, 1] * x[:, 2] > 0).long()
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for _ in range(600):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), labels).backward()
        optimizer.step()
    size = "10%" if "bits" in options else "30%"
    small = rc.prune(model, x[:1], rc.Budget(size=size), trained=True, data=[(x, labels)], **options)
    assert min(row.width for row in small.reconvene_plan.rows) >= 4
    assert (small(x).argmax(1) == labels).float().mean() > 0.8  # 0.51 and 0.63 by losses that only add up


def trained_net() -> tuple[nn.Module, list[tuple[torch.Tensor, torch.Tensor]]]:
    torch.manual_seed(0)
    model = mini_resnet((8, 8, 16))
    images, labels = torch.randn(48, 3, 16, 16), torch.randint(0, 10, (48,))
    return model.eval(), list(zip(images.split(16), labels.split(16), strict=True))


def packed_bytes(model: nn.Module, plan: rc.Plan) -> float:
    """By hand: bits of every channel, eight bytes beside."""
    total = 0
    parameters = dict(model.named_parameters())
    for name, layer in plan.bits.layers.items():
        for bits, channels in layer.counts:
            total += -(-bits * channels * parameters[name][0].numel() // 8) + 8 * channels
    return total


@pytest.mark.parametrize("size", ["6kB", "3kB", "1500", "700"])
@pytest.mark.parametrize("trained", [True, False])
def test_a_budget_on_size_is_kept_and_used_by_what_the_channels_have(size: str, trained: bool) -> None:
    model, data = trained_net()
    image = data[0][0][:1]
    options = {"trained": True, "data": data} if trained else {}
    plan = rc.plan(model, image, budget=rc.Budget(size=size), bits=(0, 2, 4, 8), **options)
    small = plan.apply(model)
    assert plan.costs["pruned"]["size"] == packed_bytes(small, plan)
    assert 0.93 * plan.limits["size"] <= plan.costs["pruned"]["size"] <= plan.limits["size"]
    weights = {name: p for name, p in small.named_parameters() if p.ndim > 1}
    assert {name: len(layer.bits) for name, layer in plan.bits.layers.items()} == {
        n: len(p) for n, p in weights.items()
    }
    assert rc.plan(model, image, budget=rc.Budget(size=size), bits=(0, 2, 4, 8), **options).to_json() == plan.to_json()


def test_bits_are_free_where_the_channels_of_layers_are_coupled() -> None:
    model, data = trained_net()
    plan = rc.plan(model, data[0][0][:1], rc.Budget(size="3kB"), bits=(0, 2, 4, 8), trained=True, data=data)
    layers = plan.bits.layers
    one, other = layers["stages.1.0.body.3.weight"].bits, layers["stages.1.0.shortcut.0.weight"].bits
    assert len(one) == len(other) and one.tolist() != other.tolist()


def test_channels_leave_only_where_zero_bits_are_allowed() -> None:
    model, data = trained_net()
    plan = rc.plan(model, data[0][0][:1], rc.Budget(size="3kB"), bits=(2, 4, 8))
    assert all(row.width == row.dense for row in plan.rows) and plan.costs["pruned"]["size"] <= 3000
    plan = rc.plan(model, data[0][0][:1], rc.Budget(size="4kB"), bits=(0, 4, 8), keep=["stem"])
    assert plan.apply(model).stem[0].out_channels == 8


def test_several_budgets_are_kept_together_and_targets_count_bits() -> None:
    model, data = trained_net()
    budget = rc.Budget(size="4kB", cycles="2x", params="1.2x")
    plan = rc.plan(model, data[0][0][:1], budget, bits=(0, 2, 4, 8), target="mpic")
    assert all(plan.costs["pruned"][name] <= limit for name, limit in plan.limits.items())
    assert plan.costs["pruned"]["energy"] < plan.costs["dense"]["energy"] / 2


def test_budgets_on_cycles_of_both_chips_are_kept_and_used() -> None:
    model = mini_resnet()
    plans = {
        "mpic": rc.plan(model, IMAGE, rc.Budget(cycles="1.2M"), bits=(0, 2, 4, 8), target="mpic"),
        "ne16": rc.plan(model, IMAGE, rc.Budget(cycles="40k"), bits=(0, 2, 4, 8), target="ne16"),
    }
    for chip, plan in plans.items():
        assert plan.costs["pruned"]["cycles"] <= plan.limits["cycles"]
        assert 0.95 * plan.limits["cycles"] <= plan.costs["pruned"]["cycles"], chip


def test_an_impossible_budget_names_the_floor() -> None:
    model, data = trained_net()
    with pytest.raises(BudgetError, match="with the fewest channels and bits it is") as caught:
        rc.plan(model, data[0][0][:1], rc.Budget(size="50"), bits=(0, 2, 4, 8))
    floor = caught.value.floor["size"]
    plan = rc.plan(model, data[0][0][:1], rc.Budget(size=int(floor)), bits=(0, 2, 4, 8))
    assert plan.costs["pruned"]["size"] == floor
    assert all(row.width == 1 for row in plan.rows)


def test_bits_alone_are_decided_where_no_channel_may_leave() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(48, 16)).eval()
    data = [(torch.randn(32, 3, 4, 4), torch.arange(32) % 16)]
    small = rc.prune(model, data[0][0][:1], rc.Budget(size="500B"), bits=(0, 2, 4, 8), trained=True, data=data)
    plan = small.reconvene_plan
    assert plan.rows == [] and "no channel may leave: bits alone are decided" in str(plan)
    assert 475 <= plan.costs["pruned"]["size"] == packed_bytes(model, plan) <= 500
    assert rc.Plan.from_dict(json.loads(json.dumps(plan.to_dict()))).bits == plan.bits
    with pytest.raises(BudgetError, match=r"it is 320 bytes\. Ask for no less than the floor"):
        rc.plan(model, data[0][0][:1], rc.Budget(size="300B"), bits=(0, 2, 4, 8), trained=True, data=data)
    found = rc.search(model, data[0][0][:1], rc.Budget(size="500B"), train=data, epochs=2)
    assert found.reconvene_plan.costs["pruned"]["size"] <= 500
    with pytest.raises(StructureError, match="nothing of this model can be pruned"):
        rc.plan(model, data[0][0][:1], rc.Budget(params="2x"))


def test_a_plan_that_only_takes_bits_does_not_call_the_dense_network_small_enough() -> None:
    model, data = trained_net()
    plan = rc.plan(model, data[0][0][:1], rc.Budget(size="8kB"), bits=(2, 4, 8), trained=True, data=data)
    assert "nothing is removed: fewer bits are enough" in plan.remarks


def test_what_a_plan_of_bits_does_not_know_is_refused() -> None:
    model, data = trained_net()
    for options in ({"criterion": "l1"}, {"evaluator": "fan_in"}, {"size_of": ["onnx"]}, {"precision": "int8"}):
        with pytest.raises(ArgumentError, match="not decided together with"):
            rc.plan(model, data[0][0][:1], rc.Budget(size="3kB"), bits=(0, 2, 4, 8), **options)
    for bits in ((3,), (0,), (), "8", (0, 2, 16), (2.0,)):
        with pytest.raises(ArgumentError, match=r"bits=\(0, 2, 4, 8\)"):
            rc.plan(model, data[0][0][:1], rc.Budget(size="3kB"), bits=bits)


def test_norms_of_a_pruned_network_are_those_of_its_rounded_weights() -> None:
    model, data = trained_net()
    small = rc.prune(model, data[0][0][:1], rc.Budget(size="2kB"), bits=(0, 2, 4, 8), trained=True, data=data)
    rounded = fake_quantised(small, small.reconvene_plan.bits.by_weight).eval()
    seen = rounded.stem[0](torch.cat([images for images, _ in data]))
    assert torch.allclose(rounded.stem[1].running_mean, seen.mean((0, 2, 3)), atol=1e-4)
    assert not torch.allclose(
        small.stem[1].running_mean, small.stem[0](torch.cat([images for images, _ in data])).mean((0, 2, 3)), atol=1e-4
    )


def test_layers_read_fewer_bits_where_a_budget_gains_by_it() -> None:
    model, data = trained_net()
    options = {"bits": (2, 4, 8), "trained": True, "data": data}
    budget = rc.Budget(ops_bit="3x")
    plain = rc.plan(model, data[0][0][:1], budget, **options)
    plan = rc.plan(model, data[0][0][:1], budget, activation_bits=(2, 4, 8), **options)
    assert plan.bits.inputs and set(plan.bits.inputs.values()) <= {2, 4} and not plain.bits.inputs
    assert plan.costs["pruned"]["ops_bit"] <= plan.limits["ops_bit"] == plain.limits["ops_bit"]
    # Layers that read one tensor read it in the same bits, and what activations save the weights have.
    assert plan.bits.inputs.get("stages.0.0.body.0", 8) == plan.bits.inputs.get("stages.0.0.shortcut.0", 8)
    mean = [np.mean(np.concatenate([layer.bits for layer in p.bits.layers.values()])) for p in (plan, plain)]
    assert mean[0] > mean[1]
    by_hand = operations(plan.apply(model), data[0][0][:1], plan.bits)
    assert plan.costs["pruned"]["ops_bit"] == by_hand
    # The size of a file does not depend on them.
    assert not rc.plan(model, data[0][0][:1], rc.Budget(size="3kB"), activation_bits=(2, 4, 8), **options).bits.inputs


def test_ranges_of_few_bits_are_those_of_passes_over_data_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[ActivationRange, list[torch.Tensor]] = {}
    follow = ActivationRange.follow

    def noted(self: ActivationRange, values: torch.Tensor) -> None:
        seen.setdefault(self, []).append(values)
        follow(self, values)

    monkeypatch.setattr(ActivationRange, "follow", noted)
    model, data = trained_net()
    options = {"trained": True, "data": data, "activation_bits": (2, 4, 8)}
    rc.prune(model, data[0][0][:1], rc.Budget(ops_bit="3x"), bits=(2, 4, 8), **options)
    assert seen and not any(values.is_meta for calls in seen.values() for values in calls)
    for of_layer, calls in seen.items():
        alone = ActivationRange()
        for values in calls:
            follow(alone, values)
        assert torch.equal(of_layer.low, alone.low) and torch.equal(of_layer.high, alone.high)
        assert int(of_layer.seen) == len(calls)
    of_layer = ActivationRange()
    of_layer.follow(torch.ones(2, device="meta"))
    assert not of_layer.seen


def operations(small: nn.Module, image: torch.Tensor, bits: BitPlan) -> float:
    """Bit operations of convolutions and linear layers, counted while they run."""
    total = 0.0

    def count(name):
        def hook(module, args, output):
            nonlocal total
            places = output.shape[2:].numel() if output.ndim == 4 else 1
            weights = sum(int(b) * module.weight[0].numel() for b in bits.layers[f"{name}.weight"].bits)
            total += weights * places * bits.inputs.get(name, 8)

        return hook

    for name, module in small.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(count(name))
    small(image)
    return total


def test_fewer_bits_of_activations_are_kept_on_disk(tmp_path: Path) -> None:
    plan = rc.plan(mini_resnet(), IMAGE, rc.Budget(cycles="2.1M"), bits=(2, 4, 8), activation_bits=(4,), target="mpic")
    assert set(plan.bits.inputs.values()) == {4} and "8 layers read 4" in str(plan)
    plan.save(tmp_path / "plan.json")
    assert rc.Plan.load(tmp_path / "plan.json") == plan


def test_losses_of_what_layers_read_equal_a_plain_loop() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.Sigmoid(), nn.Flatten(), nn.Linear(4 * 4, 3)).double()
    images, labels = torch.randn(5, 2, 4, 4, dtype=torch.float64), torch.tensor([0, 1, 2, 0, 1])
    options = Options(data=[(images, labels)], trained=True, bits=(2, 4, 8))
    found = input_losses_on_data(model, images[:1], ["0", "3"], (2, 4), options)
    with torch.no_grad():
        read = {"0": images, "3": model[:3](images)}
    for name, after in (("0", model), ("3", model[3:])):
        low, high = min(float(read[name].min()), 0.0), max(float(read[name].max()), 0.0)
        for number, bits in enumerate((2, 4)):
            step = (high - low) / (2**bits - 1)
            total = 0.0
            for value, label in zip(read[name], labels, strict=True):
                value = value[None].clone().requires_grad_()
                loss = nn.functional.cross_entropy(after(value), label[None])
                (gradient,) = torch.autograd.grad(loss, value)
                zero = round(-low / step)
                rounded = (torch.clamp(torch.round(value / step) + zero, 0, 2**bits - 1) - zero) * step
                total += float((gradient * (rounded - value)).detach().square().sum())
            assert found[name][number] == pytest.approx(0.5 * total / len(images), rel=1e-5)


def test_bits_of_activations_that_cannot_be_are_refused() -> None:
    model, data = trained_net()
    image, budget = data[0][0][:1], rc.Budget(cycles="2x")
    with pytest.raises(ArgumentError, match=r"Try: bits=\(0, 2, 4, 8\)"):
        rc.plan(model, image, rc.Budget(size="3kB"), activation_bits=(4, 8))
    with pytest.raises(ArgumentError, match=r"computes with activations of 8 bits. Try: activation_bits=\(8,\)"):
        rc.plan(model, image, budget, bits=(2, 4, 8), activation_bits=(4, 8), target="ne16")
    for bits in ((0, 8), (), "8", (16,), (4.0, 8.0), ([4], 8)):
        with pytest.raises(ArgumentError, match=r"are not some of \(2, 4, 8\)"):
            rc.plan(model, image, budget, bits=(2, 4, 8), activation_bits=bits, target="mpic")
    with torch.device("meta"):
        on_meta, nothing = mini_resnet(), torch.zeros(1, 3, 32, 32)
    with pytest.raises(ArgumentError, match="this model is on meta"):
        rc.plan(on_meta, nothing, rc.Budget(ops_bit="4x"), bits=(2, 4, 8), activation_bits=(4, 8))


def test_a_budget_on_latency_is_kept_beside_one_on_size() -> None:
    model, data = trained_net()
    image = data[0][0][:1]
    _, profile = device_fakes.of(model, image)
    device = devices.Profile.from_dict({**profile.to_dict(), "precision": "int8"})
    options = {"bits": (0, 2, 4, 8), "trained": True, "data": data, "device": device, "round_to": 4}
    predicted = DeviceLatency(device).bind(analyse(model, image), None)
    alone = rc.plan(model, image, rc.Budget(latency="1.2x"), **options)
    plan = rc.plan(model, image, rc.Budget(latency="1.2x", size="1.5kB"), **options)
    for each in (alone, plan):
        assert each.costs["pruned"]["latency"] <= each.limits["latency"] == each.costs["dense"]["latency"] / 1.2
        assert each.costs["pruned"]["latency"] == predicted.at(each.widths)
    # Bits cost no time in int8 kernels, so that all are taken where no other budget asks for fewer.
    assert {width for layer in alone.bits.layers.values() for width, _ in layer.counts} == {8}
    assert plan.costs["pruned"]["size"] == packed_bytes(plan.apply(model), plan) <= 1500 < alone.costs["pruned"]["size"]
    with pytest.raises(DeviceError, match="run in int8, and the profile of fake was measured in fp32"):
        rc.plan(model, image, rc.Budget(latency="1.2x"), **{**options, "device": profile})
    with pytest.raises(ArgumentError, match="device without a budget on latency"):
        rc.plan(model, image, rc.Budget(size="4kB"), **options)
    with pytest.raises(ArgumentError, match="activation_bits and latency"):
        rc.plan(model, image, rc.Budget(latency="1.2x"), activation_bits=(4, 8), **options)
    with pytest.raises(BudgetError, match="with 0 among the bits they can"):
        rc.plan(model, image, rc.Budget(latency="1.2x"), **{**options, "bits": (2, 4, 8)})


def test_a_latency_of_a_file_of_costs_follows_bits_and_any_width() -> None:
    model, data = trained_net()
    options = {"bits": (0, 4, 8), "trained": True, "data": data, "target": "roofline"}
    with pytest.raises(ArgumentError, match=r"computes with weights of 4, 8 bits. Try: bits=\(0, 4, 8\)"):
        rc.plan(model, data[0][0][:1], rc.Budget(latency="1.5x"), **{**options, "bits": (0, 2, 4, 8)})
    plan = rc.plan(model, data[0][0][:1], rc.Budget(latency="1.5x"), **options)
    assert 0.9 * plan.limits["latency"] <= plan.costs["pruned"]["latency"] <= plan.limits["latency"]
    assert any(row.width % 8 for row in plan.rows)


class Steps(Cost):
    """Widths in steps of four; the solver is given a lower bound."""

    name, label, plural, meaning = "steps", "Steps", "steps", "Steps: 12."

    def bind(self, structure, network):
        return CostFunction(lambda widths: float(widths.sum()), lambda widths: float((-(-widths // 4) * 4).sum()))


def test_a_cost_whose_bound_is_not_its_value_keeps_its_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(COSTS, "steps", Steps())
    model = nn.Sequential(nn.Conv2d(3, 9, 3), nn.ReLU(), nn.Conv2d(9, 9, 3), nn.ReLU(), nn.Conv2d(9, 2, 3))
    plan = rc.plan(model, torch.randn(1, 3, 12, 12), rc.Budget(steps=13), bits=(0, 2, 4, 8))
    assert plan.costs["pruned"]["steps"] == sum(-(-row.width // 4) * 4 for row in plan.rows) <= 13


def with_a_shared_weight() -> nn.Module:
    model = nn.Sequential(
        nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4)
    )
    model[2].weight = model[0].weight
    return model


def test_weights_of_several_layers_are_read_in_eight_bits() -> None:
    model, image = with_a_shared_weight(), torch.randn(4, 6)
    plan = rc.plan(model, image, rc.Budget(params="1x"), target="mpic", bits=(8,), activation_bits=(2,))
    assert plan.bits.inputs == {"4": 2, "6": 2}
    rate = {2: 2.2, 8: 2.1}  # of weights of 8 bits, by what is read; a bias is an addition more
    cycles = 2 * (36 + 6) / rate[8] + (48 + 8 + 32 + 4) / rate[2]
    assert plan.costs["pruned"]["cycles"] == pytest.approx(cycles)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_losses_of_what_layers_read_are_summed_in_double(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3)).to(dtype)
    losses = input_losses_by_noise(model, 40 * torch.randn(1, 3, 64, 64, dtype=dtype), ["0", "2"], (2, 4, 8), seed=0)
    for values in losses.values():
        assert values[0] > 5 * values[1] > 5 * values[2] > 0


class Called(nn.Conv2d):
    """A convolution that is called by a name of its own."""

    def forward(self, x):
        return super().forward(x)


class Several(nn.Module):
    """A convolution called by another name, and a frozen part in which nothing has a gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.frozen, self.named, self.head = nn.Conv2d(3, 8, 3), Called(8, 8, 3), nn.Linear(8, 4)

    def forward(self, images):
        with torch.no_grad():
            x = torch.relu(self.frozen(images))
        return self.head(torch.relu(self.named(x=x)).mean((2, 3)))


def test_layers_without_gradients_or_with_other_arguments_are_read_as_well() -> None:
    torch.manual_seed(0)
    model, images = Several().eval(), torch.randn(8, 3, 8, 8)
    options = {"bits": (2, 4, 8), "activation_bits": (4, 8), "trained": True}
    batches = [(images, torch.arange(8) % 4)]
    plan = rc.plan(model, images[:1], rc.Budget(ops_bit="6x"), data=iter(batches), **options)  # used up by one pass
    assert "named" in plan.bits.inputs
    with pytest.raises(CriterionError, match="batch 0 of the data failed"):
        rc.plan(model, images[:1], rc.Budget(ops_bit="6x"), data=[(images[:, :1], batches[0][1])], **options)


def test_chips_without_eight_bits_refuse_layers_that_stay_there(tmp_path: Path) -> None:
    text = (Path(rc.__file__).parent / "costs/targets/bits.toml").read_text()
    (tmp_path / "four.toml").write_text(
        text.replace("activations = [2, 4, 8]", "activations = [2, 4]").replace("ops_bit", "cycles")
    )
    model, image = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3)), torch.randn(1, 3, 8, 8)
    options = {"bits": (2, 4, 8), "target": tmp_path / "four.toml"}
    with pytest.raises(ArgumentError, match=r"activations of 2, 4 bits. Try: activation_bits=\(2, 4\)"):
        rc.plan(model, image, rc.Budget(cycles="2x"), **options)
    plan = rc.plan(model, image, rc.Budget(cycles="2x"), activation_bits=(2, 4), **options)
    assert set(plan.bits.inputs) == {"0", "2"}
    shared = with_a_shared_weight()
    with pytest.raises(ArgumentError, match="layer '0' reads stays at 8"):
        rc.plan(shared, torch.randn(2, 6), rc.Budget(cycles="2x"), activation_bits=(2, 4), **options)


@pytest.mark.parametrize("bits", [99, 0, "x"])
def test_bits_of_activations_that_cannot_be_are_refused_in_files(bits: object) -> None:
    plan = rc.plan(mini_resnet((4, 4, 4)), IMAGE, budget=rc.Budget(params="2x"))
    values = replace(plan, bits=BitPlan({"stem.0.weight": LayerBits.of(0, np.array([2, 2]))})).to_dict()
    values["bits"]["inputs"] = {"stem.0": bits}
    with pytest.raises(PlanError, match="inputs"):
        rc.Plan.from_dict(values)


def test_bits_are_integers_of_any_kind() -> None:
    for bits in ([0, 8], np.array([8, 0]), (np.int64(0), np.uint8(8))):
        assert check_bits(bits) == (0, 8)
    for wrong in ("8", 8, (2.0,), (True,), (np.bool_(True),), ("8",), ()):
        with pytest.raises(ArgumentError, match="are not some of"):
            check_bits(wrong)  # type: ignore[arg-type]


def test_cycles_that_only_a_compiler_knows_are_called_predictions() -> None:
    model, images = mini_resnet((4, 4, 4)).eval(), torch.randn(1, 3, 16, 16)
    plan = rc.plan(model, images, rc.Budget(cycles="1.1x"), bits=(0, 8), target="ethos-u55-128")
    assert plan.conditions["cycles"].endswith("by formulas; plans of bits do not ask its compiler")


def test_a_cost_with_a_name_of_its_own_is_a_budget_among_the_known_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chip = (paths.ROOT / "docs" / "extending" / "cost-file.md").read_text().split("```toml\n")[1].split("```")[0]
    file = tmp_path / "mine.toml"
    file.write_text(
        f"""{chip}
[costs.traffic]
label = "Traffic"
unit = "bytes"
meaning = "Bytes that are moved."
[[costs.traffic.layers]]
kinds = ["convolution", "depthwise", "linear", "product"]
amount = "weights * w / 8 + outputs"
"""
    )
    monkeypatch.setitem(COSTS, "traffic", cost_file(file).costs["traffic"])
    model, images = mini_resnet((4, 4, 4)).eval(), torch.randn(1, 3, 16, 16)
    plan = rc.plan(model, images, rc.Budget(traffic="2x"), bits=(0, 4, 8), target=file)
    assert 0 < plan.costs["pruned"]["traffic"] <= plan.limits["traffic"]
