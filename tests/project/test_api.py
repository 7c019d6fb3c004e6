"""The contract: the public names, called as a user would, and what they promise."""

from __future__ import annotations

import copy
import inspect
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import reconvene as rc
from reconvene import models
from reconvene.costs.model import CostModel
from reconvene.errors import BudgetError, CriterionError, ModelError, PlanError, StructureError, UnknownNameError
from reconvene.structure import analyse

INPUTS = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def resnet(width: float = 0.5, seed: int = 0) -> nn.Module:
    return models.resolve_address("resnet20", {"width": width}, seed=seed).build()


def state(model: nn.Module) -> dict[str, bytes]:
    return {name: tensor.numpy().tobytes() for name, tensor in model.state_dict().items()}


def params(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(
    "budget",
    [
        {"params": "4x"},
        {"macs": "4x"},
        {"size": "4x"},
        {"peak_memory": "1.5x"},
        {"params": 0.3, "macs": 0.2},
        {"params": "2x", "macs": "6x", "peak_memory": 0.6, "size": "100KiB"},
    ],
    ids=str,
)
def test_every_budget_is_kept_by_the_model_itself_and_filled(budget: dict[str, str | float]) -> None:
    model = resnet()
    small = rc.prune(model, INPUTS, rc.Budget(**budget))
    plan = small.reconvene_plan
    measured = rc.measure(small, INPUTS, latency=False).to_dict()
    closeness = []
    for cost, limit in plan.limits.items():
        assert measured[cost] <= limit
        if cost != "size":  # the header of a smaller file is a little smaller than the one allowed for
            assert measured[cost] == plan.costs["pruned"][cost]
        closeness.append(measured[cost] / limit)
    assert max(closeness) > 0.85  # one rounding step of a small network is some percent


def test_the_same_seed_gives_the_same_bytes_and_another_another_network() -> None:
    runs = [rc.prune(resnet(seed=s), INPUTS, rc.Budget(params="8x"), seed=s) for s in (0, 0, 1)]
    plans = [run.reconvene_plan.to_json() for run in runs]
    assert plans[0] == plans[1] and state(runs[0]) == state(runs[1])
    assert state(runs[0]) != state(runs[2])


def test_the_model_and_the_random_state_are_left_as_they_were() -> None:
    model = resnet().train()
    next(model.children()).eval()
    before, modes = state(model), [m.training for m in model.modules()]
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    rc.prune(model, INPUTS, rc.Budget(params="4x"))
    assert torch.equal(torch.rand(2), expected)
    assert state(model) == before and [m.training for m in model.modules()] == modes
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert all(p.grad is None for p in model.parameters())


def test_a_saved_plan_cuts_a_fresh_model_the_same_way(tmp_path: Path) -> None:
    plan = rc.plan(resnet(), INPUTS, rc.Budget(params="6x"))
    plan.save(tmp_path / "plan.json")
    again = rc.Plan.load(tmp_path / "plan.json")
    assert again == plan
    assert state(plan.apply(resnet())) == state(again.apply(resnet()))
    again.save(tmp_path / "again.json")
    assert (tmp_path / "again.json").read_bytes() == (tmp_path / "plan.json").read_bytes()


def test_a_plan_says_what_training_costs_of_what(tmp_path: Path) -> None:
    model, inputs = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 8, 3)), torch.randn(1, 3, 8, 8)
    data = DataLoader(TensorDataset(torch.randn(50, 3, 8, 8)), batch_size=5)
    for given, examples in (({}, None), ({"examples": 7}, 7), ({"data": data}, 50), ({"data": data, "examples": 9}, 9)):
        plan = rc.plan(model, inputs, rc.Budget(params="2x"), "magnitude", **given)
        for which in ("dense", "pruned"):
            assert plan.training_flops[which] == 6 * plan.costs[which]["macs"] * (examples or 1)
        assert ("an example" if examples is None else f"an epoch of {examples} examples") in str(plan)
        plan.save(tmp_path / "plan.json")
        assert rc.Plan.load(tmp_path / "plan.json").training_flops == plan.training_flops


def test_a_saved_plan_and_rectify_give_the_bytes_of_prune(tmp_path: Path) -> None:
    budget = rc.Budget(params="6x")
    pruned = rc.prune(resnet(), INPUTS, budget=budget, rectify="reinit", seed=5)
    rc.plan(resnet(), INPUTS, budget=budget, seed=5).save(tmp_path / "plan.json")
    plan = rc.Plan.load(tmp_path / "plan.json")
    small = plan.apply(resnet())
    rc.rectify(small, plan, INPUTS, how="reinit")
    assert state(small) == state(pruned)


def test_the_contract_as_it_is_written(tmp_path: Path) -> None:
    """Every call as the design shows it: what is positional there is positional here."""
    model, budget = resnet(0.25), rc.Budget(params="3x", macs=0.9)
    plan = rc.plan(model, INPUTS, budget=budget, criterion="synflow", data=None, seed=0)
    small, same = plan.apply(model), plan.mask(model)
    assert type(small) is type(same) is type(model) and params(small) < params(same) == params(model)
    plan.save(str(tmp_path / "plan.json"))
    assert rc.Plan.load(str(tmp_path / "plan.json")) == plan
    rc.rectify(small, plan, INPUTS, how="reinit")
    pruned = rc.prune(model, INPUTS, budget=budget, rectify="reinit")
    assert state(pruned) == state(small)
    assert all(g.name and g.width and g.parameters for g in rc.groups(model, INPUTS))
    assert str(rc.sensitivity(model, INPUTS, criterion="magnitude"))
    assert {"params", "macs", "peak_memory", "size", "latency"} <= set(vars(rc.measure(small, INPUTS, latency=False)))
    assert set(rc.masks(model, 0.5, "magnitude")) <= {name for name, _ in model.named_parameters()}
    rc.save(pruned, f"{tmp_path}/out/")
    assert state(rc.load(f"{tmp_path}/out/")) == state(pruned)
    parameters = inspect.signature(rc.export).parameters
    defaults = {name: parameters[name].default for name in ("format", "example_inputs", "quantize", "calibration")}
    assert defaults == {"format": "onnx", "example_inputs": None, "quantize": None, "calibration": None}


def test_masks_need_inputs_only_where_the_shape_is_not_known_otherwise() -> None:
    model = resnet(0.25)
    given = rc.masks(model, 0.2, "synflow", example_inputs=INPUTS, rounds=3)
    known = rc.masks(model, 0.2, "synflow", rounds=3)
    assert all(torch.equal(given[name], known[name]) for name in given)
    foreign = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.LazyLinear(2))
    foreign(INPUTS)
    with pytest.raises(CriterionError, match="example_inputs"):
        rc.masks(foreign, 0.2, "synflow")
    for criterion in ("random", "magnitude", "snip", "grasp"):
        found = rc.masks(foreign, 0.25, criterion, data=[(INPUTS, torch.tensor([0, 1]))])
        kept = sum(int(mask.sum()) for mask in found.values())
        assert kept == int(0.25 * sum(mask.numel() for mask in found.values()) + 0.5)
    with pytest.raises(UnknownNameError, match="synflow"):
        rc.masks(foreign, 0.2, "snap")


def test_the_small_network_computes_what_the_silenced_one_does() -> None:
    model = resnet().double().eval()
    plan = rc.plan(model, INPUTS.double(), rc.Budget(params="6x"), criterion="magnitude")
    with torch.no_grad():
        torch.testing.assert_close(
            plan.apply(model)(INPUTS.double()), plan.mask(model)(INPUTS.double()), rtol=2e-6, atol=1e-9
        )


@pytest.mark.parametrize("how", ["reinit", "rescale", "keep"])
def test_rectify_says_how_signal_spreads(how: str) -> None:
    model = resnet()
    plan = rc.plan(model, INPUTS, rc.Budget(params="8x"))
    small = plan.apply(model)
    before = state(small)
    report = rc.rectify(small, plan, INPUTS, how=how)
    assert (state(small) == before) is (how == "keep")
    assert str(report)


@pytest.mark.parametrize(
    ("criterion", "evaluator"),
    [
        *(("synflow", e) for e in ("fan_in", "density", "reach", "concentration", "ablation")),
        *((c, "fan_in") for c in ("random", "magnitude", "snip", "grasp")),
    ],
)
def test_every_criterion_and_evaluator_keeps_the_budget(criterion: str, evaluator: str) -> None:
    model = resnet(0.25)
    data = [(INPUTS, torch.tensor([0, 1]))]
    small = rc.prune(model, INPUTS, rc.Budget(params="4x"), criterion=criterion, data=data, evaluator=evaluator)
    assert params(small) <= params(model) / 4
    assert small.reconvene_plan.criterion == criterion and small.reconvene_plan.evaluator == evaluator
    assert (small.reconvene_plan.data is not None) is (criterion in ("snip", "grasp"))


def test_groups_and_sensitivity_list_everything() -> None:
    model = resnet(0.25)
    groups = rc.groups(model, INPUTS)
    prunable = [g for g in groups if g.prunable]
    pinned = [g for g in groups if not g.prunable]
    assert all(g.parameters and g.width for g in groups)
    assert any("network output" in str(g.pinned) for g in pinned)
    table = rc.sensitivity(model, INPUTS, criterion="synflow")
    assert [c.group for c in table.curves] == [g.name for g in prunable]
    assert all(row.sensitivity is None and row.density is None for row in table.rows if not row.prunable)


def test_a_budget_below_the_floor_names_the_floor_and_leaves_nothing() -> None:
    with pytest.raises(BudgetError, match=r"floor|could") as caught:
        rc.plan(resnet(), INPUTS, rc.Budget(params="100000x"))
    floor = caught.value.floor["params"]
    assert 0 < floor < params(resnet())
    rc.plan(resnet(), INPUTS, rc.Budget(params=int(floor)))  # what is named can be reached


def test_unknown_names_list_the_known_ones() -> None:
    budget = rc.Budget(params="4x")
    with pytest.raises(UnknownNameError, match="synflow"):
        rc.plan(resnet(0.25), INPUTS, budget, criterion="syncflow")
    with pytest.raises(UnknownNameError, match="density"):
        rc.plan(resnet(0.25), INPUTS, budget, evaluator="dense")
    with pytest.raises(UnknownNameError, match="rescale"):
        rc.prune(resnet(0.25), INPUTS, budget, rectify="rescaled")


def test_bad_models_are_refused_with_a_reason() -> None:
    budget = rc.Budget(params="2x")
    with pytest.raises(ModelError, match="does not run"):
        rc.plan(resnet(0.25), torch.randn(1, 4, 32, 32), budget)
    with pytest.raises(StructureError, match="network output"):
        rc.plan(nn.Linear(4, 3), torch.randn(2, 4), budget)
    broken = resnet(0.25)
    name, parameter = next(iter(broken.named_parameters()))
    parameter.data.view(-1)[0] = float("nan")
    with pytest.raises(CriterionError, match=name):
        rc.plan(broken, INPUTS, budget, criterion="random")


def test_a_plan_refuses_another_model_and_damage(tmp_path: Path) -> None:
    plan = rc.plan(resnet(0.25), INPUTS, rc.Budget(params="4x"))
    with pytest.raises(PlanError, match="shape"):
        plan.apply(resnet(0.5))
    with pytest.raises(PlanError, match="fresh copy"):
        plan.apply(nn.Linear(3, 3))
    text = plan.to_json()
    for damaged, says in (
        (text[:100], "not JSON"),
        ("{}", "not a Reconvene plan"),
        (text.replace('"version": 1', '"version": 9'), "upgrade"),
    ):
        (tmp_path / "plan.json").write_text(damaged)
        with pytest.raises(PlanError, match=says):
            rc.Plan.load(tmp_path / "plan.json")


def test_unet_and_segmentation_shapes() -> None:
    model = models.resolve_address("unet", {"width": 0.25}).build()
    small = rc.prune(model, INPUTS, rc.Budget(params="4x"))
    assert small(INPUTS).shape == model(INPUTS).shape


def test_pruning_twice_starts_from_the_smaller_model() -> None:
    once = rc.prune(resnet(), INPUTS, rc.Budget(params="3x"))
    twice = rc.prune(copy.deepcopy(once), INPUTS, rc.Budget(params="2x"))
    assert params(twice) <= params(once) / 2


@pytest.mark.parametrize("limit", ["1.3x", "2x"])
def test_a_budget_on_memory_holds_for_the_network_that_is_made(limit: str) -> None:
    model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.Flatten(), nn.Linear(256, 4))
    inputs = torch.randn(1, 3, 8, 8)
    plan = rc.plan(model, inputs, rc.Budget(peak_memory=limit))
    counted = CostModel(analyse(plan.apply(model), inputs, trial=False)).dense["peak_memory"]
    assert counted == plan.costs["pruned"]["peak_memory"] <= plan.limits["peak_memory"]
    assert plan.budget == {"peak_memory": limit}


def test_macs_are_of_one_example_whatever_the_batch() -> None:
    model, images = resnet(), torch.cat([INPUTS, INPUTS])
    plans = [rc.plan(model, images[:count], rc.Budget(macs="3M"), verify=False) for count in (1, 2, 3, 4)]
    assert len({plan.costs["dense"]["macs"] for plan in plans}) == 1
    assert len({tuple(plan.widths) for plan in plans}) == 1
    assert len({plan.training_flops["pruned"] for plan in plans}) == 1
    assert plans[0].limits == plans[3].limits == {"macs": 3_000_000}
    assert all(isinstance(plan.costs["pruned"]["macs"], int) for plan in plans)
    shares = []
    for count in (1, 4):
        with pytest.raises(BudgetError) as caught:
            rc.plan(model, images[:count], rc.Budget(macs=1), verify=False)
        shares.append(caught.value.pinned["macs"])
    assert shares[0].amount == pytest.approx(shares[1].amount) and shares[0].floor == shares[1].floor


def test_an_image_without_a_batch_is_one_example() -> None:
    model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 4, 3))
    image = INPUTS[0]
    alone, batched = (rc.measure(model, inputs, latency=False).macs for inputs in (image, image[None]))
    assert alone == batched


def test_a_budget_that_removes_nothing_says_so() -> None:
    words = "nothing is removed"
    assert words in str(rc.plan(resnet(), INPUTS, rc.Budget(params="1x"), verify=False))
    assert words not in str(rc.plan(resnet(), INPUTS, rc.Budget(params="2x"), verify=False))


@pytest.mark.parametrize(("value", "hint"), [("4", "4x"), (16, "16x"), ("4x", None), (1, None), ("5000", None)])
def test_a_plain_number_that_is_no_amount_is_asked_about(value: str | int, hint: str | None) -> None:
    model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 900, 3))
    budget = {"params": value} if value != "4x" else {"params": value, "macs": 1}
    with pytest.raises(BudgetError) as caught:
        rc.plan(model, INPUTS, rc.Budget(**budget), verify=False)
    assert ("did you mean" in str(caught.value)) == (hint is not None)
    assert hint is None or f"did you mean {hint!r}?" in str(caught.value)
