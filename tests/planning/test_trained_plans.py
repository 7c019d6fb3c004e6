"""Plans of trained networks, layers that are left alone, and widths that were asked for."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import reconvene as rc
from reconvene.errors import ArgumentError, BudgetError, CriterionError, StructureError, UnknownNameError
from reconvene.planning.trained_weights import TrainedWeightsWarning, UntrainedWeightsWarning
from support.channel_criteria import WITHOUT_SPIKES
from support.trained_net import Net, X, batches, trained


def shapes(net: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(parameter.shape) for name, parameter in net.named_parameters()}


def part(plan: rc.Plan, name: str) -> int:
    return next(row.width for row in plan.rows if row.name == name)


@pytest.mark.parametrize("keep", [["head"], ["stem.*"], ["layer1.0", "head.2"]])
def test_nothing_of_a_kept_layer_changes(keep):
    net = Net()
    small = rc.prune(net, X, rc.Budget(macs="1.1x"), keep=keep)
    before, after = dict(net.named_parameters()), dict(small.named_parameters())
    kept = [n for n in before if any(n.startswith(k.removesuffix(".*")) for k in keep)]
    assert kept and all(torch.equal(before[name], after[name]) for name in kept)
    assert shapes(small) != shapes(net)


def test_a_name_that_no_layer_has_is_an_error_with_the_nearest_names():
    for argument in ({"keep": ["haed"]}, {"widths": {"haed": 0.5}}):
        with pytest.raises(
            UnknownNameError, match=r"'haed'\. Did you mean 'head'.*Available: head, layer1, layer2, stem"
        ):
            rc.plan(Net(), X, rc.Budget(macs="2x"), **argument)
    with pytest.raises(ArgumentError, match=r"Try: keep=\['head', 'stem\.\*'\]"):
        rc.plan(Net(), X, rc.Budget(macs="2x"), keep="head")
    with pytest.raises(ArgumentError, match="does not say which layers"):
        rc.plan(Net(), X, rc.Budget(macs="2x"), widths=["head"])


def test_a_budget_that_kept_layers_hold_says_their_share():
    with pytest.raises(BudgetError, match=r"% the layer stays as it is, as asked \(keep\) \(in layer2.0") as caught:
        rc.plan(Net(), X, rc.Budget(params="8x"), keep=["layer2"])
    share = caught.value.pinned["params"].shares[0]
    layer2 = sum(p.numel() for p in Net().layer2.parameters()) / sum(p.numel() for p in Net().parameters())
    assert share.share >= layer2
    with pytest.raises(StructureError, match=r"as asked \(keep\)"):
        rc.plan(Net(), X, rc.Budget(params="2x"), keep=["*"])


@pytest.mark.parametrize(("asked", "want"), [(0.5, 8), (1.0, 16), (5, 5), (1, 1), (0.3, 5), (16, 16)])
def test_a_width_that_was_asked_for_is_exact(asked, want):
    plan = rc.plan(Net(), X, rc.Budget(macs="1.5x"), widths={"stem": asked})
    assert part(plan, "stem.0") == want
    assert rc.plan(Net(), X, rc.Budget(macs="1.5x"), widths={"head.2": 1.0}).rows  # whole is what it stays anyway
    assert plan.costs["pruned"]["macs"] <= plan.limits["macs"]
    row = next(row for row in plan.rows if row.name == "stem.0")
    assert row.why == "the width that was asked for" and row.dense == 16
    small = plan.apply(Net())
    assert small.stem[0].weight.shape[0] == small.layer1[3].weight.shape[0] == want


def test_a_pattern_asks_for_every_layer_it_names():
    plan = rc.plan(Net(), X, rc.Budget(params="1.2x"), widths={"layer?": 0.25, "head.0": 7})
    assert [part(plan, name) for name in ("stem.0", "layer1.0", "layer2.0", "head.0")] == [4, 6, 8, 7]


def test_a_budget_that_asked_widths_hold_says_their_share():
    with pytest.raises(BudgetError, match=r"of which (\d+)% of dense are the widths that were asked for"):
        rc.plan(Net(), X, rc.Budget(params="100x"), widths={"layer2": 1.0})


def test_widths_that_cannot_be_had_are_errors():
    for widths, words in (
        ({"stem": 0.0}, "neither a share"),
        ({"stem": 2.5}, "neither a share"),
        ({"stem": True}, "neither a share"),
        ({"stem": "half"}, "neither a share"),
        ({"stem": 17}, "stem.0 has 16 channels"),
        ({"head.2": 0.5}, "no channels of 'head.2' can leave"),
        ({"stem": 0.5, "layer1.3": 4}, "They are the same channels"),
    ):
        with pytest.raises(ArgumentError, match=words):
            rc.plan(Net(), X, rc.Budget(macs="2x"), widths=widths)


class Halves(nn.Module):
    """Two layers whose outputs must stay equally wide: one tensor, cut in halves that are multiplied."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.mix, self.head = (
            nn.Linear(4, 12),
            nn.Linear(4, 12),
            nn.Linear(12, 10),
            nn.Linear(10, 3),
        )

    def forward(self, x: Tensor) -> Tensor:
        first, second = torch.cat([self.one(x), self.two(x)], -1).chunk(2, -1)
        return self.head(self.mix(first.sigmoid() * second).relu())


def test_what_is_tied_to_an_asked_width_follows():
    x = torch.randn(2, 4)
    plan = rc.plan(Halves(), x, rc.Budget(params="1.2x"), widths={"one": 5})
    small = plan.apply(Halves())
    assert small.one.weight.shape[0] == small.two.weight.shape[0] == 5


@pytest.mark.parametrize("criterion", WITHOUT_SPIKES)
def test_every_criterion_of_channels_plans_within_the_budget(criterion):
    net = trained(Net())
    keep = ["head.0"] if criterion == "slimming" else []
    plan = rc.plan(net, X, rc.Budget(macs="2x"), criterion, batches(2, 8), trained=True, keep=keep)
    assert plan.criterion == criterion and plan.evaluator == "removed_loss"
    assert plan.costs["pruned"]["macs"] <= plan.limits["macs"]
    torch.testing.assert_close(plan.apply(net).eval()(X), plan.mask(net).eval()(X), atol=1e-5, rtol=1e-5)


def test_trained_networks_keep_their_weights_by_default():
    net, data = trained(Net()), batches()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        small = rc.prune(net, X, rc.Budget(macs="2x"), trained=True, data=iter(data))
        other = rc.prune(net, X, rc.Budget(macs="2x"), trained=True)
    plan = small.reconvene_plan
    assert plan.criterion == "taylor" and "the trained weights are kept (reconstruct)" in plan.notes
    sliced = plan.apply(net)
    assert torch.equal(sliced.stem[0].weight, small.stem[0].weight)  # nothing that it reads was cut
    assert any(not torch.equal(a, b) for a, b in zip(sliced.parameters(), small.parameters(), strict=True))  # fitted
    assert other.reconvene_plan.criterion == "group_l2"
    assert all(
        torch.equal(a, b) for a, b in zip(other.reconvene_plan.apply(net).parameters(), other.parameters(), strict=True)
    )


def test_one_shot_keeps_most_of_the_accuracy_where_the_untrained_road_keeps_none():
    net, data = trained(Net()), batches(16)
    test = torch.cat([x for x, _ in batches(30)[16:]]), torch.cat([y for _, y in batches(30)[16:]])

    def accuracy(model: nn.Module) -> float:
        return float((model.eval()(test[0]).argmax(1) == test[1]).float().mean())

    small = rc.prune(net, X, rc.Budget(macs="2x"), trained=True, data=data)
    plain = rc.prune(net, X, rc.Budget(macs="2x"), "group_l2", trained=True, rectify="keep")
    assert accuracy(small) > accuracy(net) - 0.1
    assert accuracy(small) > accuracy(plain)


def test_a_network_that_looks_trained_is_not_redrawn_in_silence():
    net = trained(Net())
    with pytest.warns(TrainedWeightsWarning, match=r"4 norms have moved.*trained=True .* keeps the weights"):
        small = rc.prune(net, X, rc.Budget(macs="2x"))
    assert any("looks trained" in note for note in small.reconvene_plan.notes)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rc.prune(net, X, rc.Budget(macs="2x"), rectify="reinit")  # asked for by name
        rc.prune(Net(), X, rc.Budget(macs="2x"))
        rc.prune(Net(norms=False), X, rc.Budget(macs="2x"))


def test_a_network_that_looks_untrained_is_not_kept_in_silence():
    with pytest.warns(UntrainedWeightsWarning, match=r"looks untrained.*--weights FILE"):
        small = rc.prune(Net(), X, rc.Budget(macs="2x"), trained=True)
    notes = [note for note in small.reconvene_plan.notes if note.about == "kept weights"]
    assert len(notes) == 1 and "looks untrained" in notes[0]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rc.prune(trained(Net()), X, rc.Budget(macs="2x"), trained=True)
        rc.prune(Net(norms=False), X, rc.Budget(macs="2x"), trained=True)  # nothing tells


def test_a_network_of_which_only_a_variance_has_moved_looks_trained():
    net = Net()
    norm = next(module for module in net.modules() if isinstance(module, nn.BatchNorm2d))
    norm.running_var.fill_(1.5)  # its inputs have a mean of zero
    with pytest.warns(TrainedWeightsWarning, match="statistics of 1 norm have moved"):
        rc.prune(net, X, rc.Budget(macs="2x"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rc.prune(net, X, rc.Budget(macs="2x"), trained=True)


def test_a_missing_argument_of_a_criterion_is_reported_before_any_work():
    with pytest.raises(CriterionError, match="criterion 'taylor' needs data"):
        rc.plan(Net(), X, rc.Budget(macs="2x"), "taylor", trained=True)
    with pytest.raises(CriterionError, match="evaluator='removed_loss'"):
        rc.plan(Net(), X, rc.Budget(macs="2x"), "group_l2", evaluator="density")


def test_sensitivity_of_a_trained_network():
    table = rc.sensitivity(trained(Net()), X, "taylor", data=batches(2))
    assert table.evaluator == "removed_loss" and table.adds_up
    assert np.isfinite([curve.sensitivity for curve in table.curves]).all()


def test_the_same_seed_gives_the_same_bytes():
    net = trained(Net())
    plans = [rc.plan(net, X, rc.Budget(macs="2x"), data=batches(2), trained=True).to_json() for _ in range(2)]
    assert plans[0] == plans[1]
