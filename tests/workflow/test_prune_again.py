"""An artifact that was pruned is pruned again: the plan is one of the dense network, with the costs of that."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

import reconvene as rc
from reconvene import artifact
from reconvene.costs import Budget
from reconvene.data import load_data
from reconvene.errors import ArtifactError, DataError, PlanError
from reconvene.models import resolve_address
from reconvene.surgery.compose import compose_plans
from reconvene.training import TrainConfig
from reconvene.workflow import Pruning, Tuned, prune_artifact, prune_in_steps, train

FEW_BITS = {"bits": (0, 2, 4, 8), "activation_bits": (2, 4, 8)}
pytestmark = pytest.mark.filterwarnings("ignore::reconvene.planning.trained_weights.UntrainedWeightsWarning")


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("first")
    source = resolve_address("resnet20", {"width": 0.25, "num_classes": 10}, input_shape=(3, 16, 16))
    prune_artifact(source, folder, budget=Budget(params="1.2x"), pruning=Pruning(trained=True, rectify="keep"))
    return folder


@pytest.mark.parametrize(
    ("budget", "pruning"),
    [
        (Budget(cycles="1.5x"), {"chip": "mpic"}),
        (Budget(params_bit="6x", ops_bit="5x"), {"evaluator": None, **FEW_BITS}),
    ],
)
def test_a_cost_that_only_the_second_plan_counts_is_told_of_the_dense_network(
    first: Path, tmp_path: Path, budget: Budget, pruning: dict
) -> None:
    source = artifact.Artifact.open(first).source
    chosen = Pruning(trained=True, rectify="keep", **pruning)
    plan = prune_artifact(source, tmp_path, budget=budget, pruning=chosen, base=first)
    whole = rc.plan(
        source.build(), torch.randn(1, 3, 16, 16), budget, trained=True, target=chosen.chip,
        **{name: value for name, value in pruning.items() if name not in ("chip", "evaluator")},
    )  # fmt: skip
    assert plan.costs["dense"] == pytest.approx(whole.costs["dense"])
    assert plan.conditions == whole.conditions
    assert all(plan.costs["pruned"][name] <= limit for name, limit in plan.limits.items())
    again = artifact.read_plan(tmp_path)
    assert again is not None and again.costs == plan.costs


def test_bits_are_never_lost_on_the_way(first: Path, tmp_path: Path) -> None:
    source = artifact.Artifact.open(first).source
    few = Pruning(trained=True, evaluator=None, rectify="keep", **FEW_BITS)
    plan = prune_artifact(source, tmp_path / "few", budget=Budget(size="5x"), pruning=few, base=first)
    with pytest.raises(ArtifactError, match="has a plan of bits, which a cut without bits would lose"):
        prune_artifact(
            source, tmp_path / "more", budget=Budget(params="2x"), pruning=Pruning(trained=True), base=tmp_path / "few"
        )
    assert not (tmp_path / "more").exists()
    dense = source.build()
    without = rc.plan(plan.apply(dense), torch.randn(1, 3, 16, 16), Budget(params="1.2x"), trained=True)
    with pytest.raises(PlanError, match="decides bits of weights, and the second one does not"):
        compose_plans(dense, torch.randn(1, 3, 16, 16), plan, without)


@pytest.mark.parametrize("in_steps", [False, True])
def test_data_of_other_classes_are_refused_before_anything_is_cut(tmp_path: Path, in_steps: bool) -> None:
    trained, digits = tmp_path / "trained", load_data("digits", input_shape=(3, 16, 16), limit=60)
    source = resolve_address("resnet20", {"width": 0.25, "num_classes": 10}, input_shape=(3, 16, 16))
    prune_artifact(source, trained, budget=Budget(params="1.2x"))
    train(trained, digits, epochs=1, config=TrainConfig(precision="fp32"))
    other = replace(digits, classes=tuple(f"class {name}" for name in digits.classes))
    options = {"budget": Budget(params="2x"), "pruning": Pruning(trained=True, rectify="keep"), "base": trained}
    with pytest.raises(DataError, match=r"is not what the model in .*trained was trained on"):
        if in_steps:
            prune_in_steps(source, tmp_path / "cut", tuned=Tuned(steps=1), dataset=other, **options)
        else:
            prune_artifact(source, tmp_path / "cut", data=lambda: other, **options)
    assert not (tmp_path / "cut").exists()


def test_an_artifact_that_was_simplified_is_pruned(tmp_path: Path) -> None:
    source = resolve_address("resnet20", {"width": 0.25, "num_classes": 10}, input_shape=(3, 16, 16))
    dense = source.build()
    with torch.no_grad():
        dense.stages[0][0].body[1].weight[0], dense.stages[0][0].body[1].bias[0] = 0.0, 0.0
    rc.save(rc.simplify(dense, torch.randn(1, 3, 16, 16)), tmp_path / "simple", source=source)
    settings = Pruning(trained=True, rectify="keep")
    plan = prune_artifact(
        source, tmp_path / "small", budget=Budget(params="1.5x"), pruning=settings, base=tmp_path / "simple"
    )
    assert plan.costs["dense"]["params"] == sum(p.numel() for p in source.build().parameters())


def test_a_cost_that_nobody_counted_of_the_dense_network_is_left_out_and_said(tmp_path: Path) -> None:
    dense, x = resolve_address("resnet20", {"width": 0.25, "num_classes": 10}).build(), torch.randn(1, 3, 16, 16)
    first = rc.plan(dense, x, Budget(params="1.2x"), trained=True)
    second = rc.plan(first.apply(dense), x, Budget(cycles="1.2x"), trained=True, target="mpic")
    plan = compose_plans(dense, x, first, second)
    assert plan.costs["dense"].keys() == plan.costs["pruned"].keys() == first.costs["dense"].keys()
    assert "cycles is left out: no plan counted it of the dense network" in plan.notes
