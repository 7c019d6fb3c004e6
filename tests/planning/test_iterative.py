"""Pruning in steps: every step keeps its budget, and all of them are one plan of the dense network."""

from __future__ import annotations

import pytest
import torch

import reconvene as rc
from reconvene.costs.model import CostModel
from reconvene.errors import ArgumentError, BudgetError, PlanError
from reconvene.models import ModelSource
from reconvene.planning.schedule import compose_plans
from reconvene.structure import analyse
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


def test_what_cannot_be_kept_is_said_before_the_first_step():
    steps = []
    with pytest.raises(BudgetError, match="the floor is"):
        rc.prune_iteratively(trained(Net()), X, rc.Budget(params="10000x"), 3, lambda *_: steps.append(1))
    with pytest.raises(ArgumentError, match="there is one step at least"):
        rc.prune_iteratively(trained(Net()), X, rc.Budget(params="2x"), 0)
    assert steps == []
