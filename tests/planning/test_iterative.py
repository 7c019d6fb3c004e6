"""Pruning in steps: every step keeps its budget, and all of them are one plan of the dense network."""

from __future__ import annotations

import json
from collections import OrderedDict

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import reconvene as rc
from reconvene.costs.model import CostModel
from reconvene.errors import ArgumentError, BudgetError, PlanError, TrainingError
from reconvene.models import ModelSource
from reconvene.planning.schedule import PruningSchedule
from reconvene.structure import analyse
from reconvene.surgery.compose import compose_plans
from support.trained_net import Net, X, batches, trained


def macs(net: torch.nn.Module) -> float:
    return CostModel(analyse(net, X, trial=False)).dense["macs"]


def test_every_step_keeps_its_share_and_the_last_one_the_budget():
    net, seen = trained(Net()), []
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    small = rc.prune_iteratively(
        net, X, rc.Budget(macs="4x"), 3, lambda network, step: seen.append((step, macs(network))), iter(batches(2))
    )
    dense = macs(net)
    assert [step for step, _ in seen] == [1, 2, 3]
    assert all(used <= dense * 0.25 ** (step / 3) for step, used in seen)
    assert seen[0][1] > seen[1][1] > seen[2][1] == macs(small) and seen[0][1] > dense / 2
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_all_steps_are_one_plan_of_the_dense_network():
    net = trained(Net())
    small = rc.prune_iteratively(net, X, rc.Budget(macs="4x", params="3x"), 3, rectify="keep")
    plan = small.reconvene_plan
    again = plan.apply(net)
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), small.parameters(), strict=True))
    torch.testing.assert_close(plan.mask(net).eval()(X), small.eval()(X), atol=1e-5, rtol=1e-5)
    assert plan.budget == {"params": "3x", "macs": "4x"}
    assert plan.costs["pruned"]["macs"] == macs(small) <= plan.limits["macs"] == macs(net) / 4
    assert plan.costs["dense"]["macs"] == macs(net)
    assert rc.Plan.from_dict(plan.to_dict()).to_json() == plan.to_json()


def test_what_was_tuned_in_between_is_in_the_result_and_can_be_saved(tmp_path):
    source = ModelSource("resnet20", {"num_classes": 10}, (3, 16, 16))
    net, x = source.build(), torch.randn(2, 3, 16, 16)

    def tune(network, step):
        with torch.no_grad():
            next(network.parameters()).fill_(float(step))

    small = rc.prune_iteratively(net, x, rc.Budget(params="2x"), 2, tune)
    assert set(next(small.parameters()).unique().tolist()) == {2.0}
    rc.save(small, tmp_path)
    again = rc.load(tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(again.state_dict().values(), small.state_dict().values(), strict=True))


def test_asked_widths_and_kept_layers_hold_to_the_end():
    net, seen = trained(Net()), []
    small = rc.prune_iteratively(
        net,
        X,
        rc.Budget(macs="2.5x"),
        2,
        lambda network, _: seen.append(network.stem[0].out_channels),
        keep=["head"],
        widths={"stem": 0.25},
    )
    assert seen == [8, 4]
    assert torch.equal(small.head[0].weight, net.head[0].weight)


def test_plans_compose_only_where_they_belong_together():
    net = trained(Net())
    first = rc.plan(net, X, rc.Budget(macs="2x"), trained=True)
    with pytest.raises(PlanError, match=r"not of the network that the first makes: stem\.0\.weight has shape"):
        compose_plans(net, X, first, first)


def test_a_budget_that_cannot_be_kept_is_reported_before_the_first_step():
    steps = []
    with pytest.raises(BudgetError, match="the floor is"):
        rc.prune_iteratively(trained(Net()), X, rc.Budget(params="10000x"), 3, lambda *_: steps.append(1))
    with pytest.raises(ArgumentError, match="there is one step at least"):
        rc.prune_iteratively(trained(Net()), X, rc.Budget(params="2x"), 0)
    assert steps == []


def test_by_default_batches_tune_with_the_dense_network_as_teacher():
    net, data = trained(Net()), batches(2)
    options = {"steps": 2, "data": data, "criterion": "l2", "rectify": "keep", "verify": False}
    cut = rc.prune_iteratively(net, X, rc.Budget(macs="3x"), train=rc.Tuning(epochs=0), **options)
    tuned = rc.prune_iteratively(net, X, rc.Budget(macs="3x"), **options)
    again = rc.prune_iteratively(net, X, rc.Budget(macs="3x"), **options)
    assert not torch.equal(cut.stem[0].weight, tuned.stem[0].weight)
    assert all(torch.equal(a, b) for a, b in zip(tuned.state_dict().values(), again.state_dict().values(), strict=True))
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), trained(Net()).parameters(), strict=True))


class Stream(torch.utils.data.IterableDataset):
    """Examples without a length."""

    def __iter__(self):
        yield from zip(torch.randn(33, 8), torch.randint(3, (33,)), strict=True)


@pytest.mark.parametrize("stream", [False, True])
def test_a_single_example_left_over_is_not_tuned_on_where_norms_need_more(stream: bool):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 3)).eval()
    examples = Stream() if stream else TensorDataset(torch.randn(33, 8), torch.randint(3, (33,)))
    options = {"steps": 2, "data": DataLoader(examples, batch_size=16), "rectify": "recalibrate", "verify": False}
    small = rc.prune_iteratively(net, torch.randn(2, 8), rc.Budget(params="2x"), **options)
    assert small[0].weight.shape[0] < 32


def test_targets_that_the_default_loss_cannot_read_are_named():
    net = trained(Net())
    data = [(inputs, targets.tolist()) for inputs, targets in batches(2)]
    options = {"data": data, "criterion": "l2", "rectify": "keep", "verify": False}
    with pytest.raises(TrainingError, match=r"targets are list, and the default loss .* takes a tensor.*loss="):
        rc.prune_iteratively(net, X, rc.Budget(macs="3x"), steps=2, **options)


def test_a_floor_stops_and_gives_the_last_good_network_back():
    net, scores = trained(Net()), iter([0.5, 0.7, 0.9, 0.4, 0.6, 0.8, 0.95])
    seen = []

    def metric(network: torch.nn.Module) -> float:
        return next(scores)

    options = {"metric": metric, "floor": 0.85, "criterion": "l2", "rectify": "keep", "verify": False}
    small = rc.prune_iteratively(net, X, rc.Budget(macs="4x"), 2, lambda network, _: seen.append(network), **options)
    assert small is seen[0] and len(seen) == 2
    first, second = small.reconvene_curve.steps
    assert (first.cut, first.repaired, first.tuned) == (0.5, 0.7, 0.9) and second.tuned == 0.8
    assert small.reconvene_curve.result == 1 and small.reconvene_curve.dense == 0.95
    assert first.costs["macs"] == macs(small) and "0.95" in str(small.reconvene_curve)
    options["metric"] = lambda network: 0.1
    whole = rc.prune_iteratively(net, X, rc.Budget(macs="4x"), 2, lambda *_: None, **options)
    assert macs(whole) == macs(net) and whole is not net and whole.reconvene_curve.result == 0
    with pytest.raises(ArgumentError, match=r"floor=0\.85 limits a metric"):
        rc.prune_iteratively(net, X, rc.Budget(macs="4x"), 2, floor=0.85)


@pytest.mark.parametrize(("pace", "halfway"), [("geometric", 0.5), ("linear", 0.625), ("cubic", 0.34375)])
def test_paces_go_from_all_to_the_budget(pace: str, halfway: float):
    schedule = PruningSchedule(2, pace, {"macs": "4x"}, {"macs": 1000.0}, {"macs": 250.0}, {})
    assert [schedule.budget(step).asked["macs"] for step in (1, 2)] == [int(1000 * halfway), 250]
    assert PruningSchedule.from_dict(json.loads(json.dumps(schedule.to_dict()))) == schedule


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Linear(6, 16), nn.Linear(16, 4)
        self.layer = nn.TransformerEncoderLayer(16, 4, 32, dropout=0.0, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.layer(self.embed(x)).mean(1))


@pytest.mark.parametrize("widths", [{"embed": 12}, {"layer.self_attn": 0.5}, {"layer.linear1": 20}])
def test_widths_that_one_cut_accepts_are_reached_in_steps(widths):
    net, x = Attention().eval(), torch.randn(2, 5, 6)
    at_once = rc.plan(net, x, rc.Budget(params="1.05x"), trained=True, widths=widths).apply(net)
    in_steps = rc.prune_iteratively(net, x, rc.Budget(params="1.05x"), 3, widths=widths)
    chosen = {"embed": "embed.weight", "layer.self_attn": "layer.self_attn.in_proj_weight"}
    name = chosen.get(next(iter(widths)), "layer.linear1.weight")
    assert (
        in_steps.get_parameter(name).shape[0] == at_once.get_parameter(name).shape[0] < net.get_parameter(name).shape[0]
    )


@pytest.mark.parametrize(("layer", "wrong", "near"), [("shuffled", 10, "8 or 12"), ("grouped", 6, "4 or 8")])
def test_a_width_that_cannot_be_met_exactly_names_the_nearest(layer, wrong, near):
    net = nn.Sequential(OrderedDict(
        first=nn.Conv2d(3, 16, 1), grouped=nn.Conv2d(16, 16, 3, groups=4), relu=nn.ReLU(),
        shuffled=nn.Conv2d(16, 32, 3, padding=1), shuffle=nn.PixelShuffle(2), last=nn.Conv2d(8, 3, 3),
    ))  # fmt: skip
    x = torch.randn(2, 3, 8, 8)
    with pytest.raises(ArgumentError, match=rf"widths\['{layer}'\]={wrong}: .* leave 4 at a time. Try: {near}"):
        rc.plan(net, x, rc.Budget(params="1.1x"), trained=True, widths={layer: wrong})
    small = rc.plan(net, x, rc.Budget(params="1.1x"), trained=True, widths={layer: 8}).apply(net)
    assert small.get_submodule(layer).out_channels == 8
