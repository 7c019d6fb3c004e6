"""Nothing is scored that a plan does not use, and every criterion works by its own means."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import reconvene as rc
from reconvene import criteria
from reconvene.criteria import CRITERIA, flow, synflow
from reconvene.errors import CriterionError
from reconvene.evaluator import EVALUATORS
from reconvene.models import MODELS
from reconvene.planning.session import Judge

X = torch.randn(2, 3, 16, 16)
DATA = [(X, torch.tensor([0, 1]))]


def network() -> nn.Module:
    torch.manual_seed(0)
    return MODELS["resnet20"](width=0.5).eval()


@pytest.fixture
def no_flow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever makes a flow pass fails."""

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("a flow pass was made")

    monkeypatch.setattr(flow.Flow, "__init__", refuse)


@pytest.mark.usefixtures("no_flow")
@pytest.mark.parametrize("evaluator", list(EVALUATORS))
@pytest.mark.parametrize("criterion", [name for name in CRITERIA if name != "synflow"])
def test_only_synflow_makes_flow_passes(criterion: str, evaluator: str) -> None:
    plan = rc.plan(network(), X, rc.Budget(params="3x"), criterion, DATA, evaluator=evaluator)
    assert plan.criterion == criterion
    assert str(rc.sensitivity(network(), X, criterion, evaluator=evaluator, data=DATA))


@pytest.mark.usefixtures("no_flow")
def test_by_default_nothing_is_scored(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("weights were scored")

    monkeypatch.setattr(criteria, "score", refuse)
    monkeypatch.setattr(criteria, "objective", refuse)
    model = network()
    plan = rc.plan(model, X, rc.Budget(params="3x"))
    assert plan.criterion == "" and "plan by fan_in: params 3x" in str(plan)
    assert all(row.keep == (f"0-{row.width - 1}" if row.width > 1 else "0") for row in plan.rows)
    assert all(row.density is None for row in plan.rows)
    again = rc.Plan.from_dict(plan.to_dict())
    assert again == plan
    small, silenced = plan.apply(model).eval(), plan.mask(model).eval()
    assert torch.allclose(small(X), silenced(X), atol=1e-5)
    assert "density" not in str(rc.sensitivity(model, X)).split("\n")[1]
    assert rc.prune(model, X, rc.Budget(params="3x")).reconvene_plan == plan


def test_criteria_that_are_asked_for_choose_the_channels_and_not_the_widths() -> None:
    plans = {name: rc.plan(network(), X, rc.Budget(params="3x"), name, DATA) for name in (None, *CRITERIA)}
    widths = {name: [row.width for row in plan.rows] for name, plan in plans.items()}
    assert all(width == widths[None] for width in widths.values())
    kept = {name: tuple(row.keep for row in plan.rows) for name, plan in plans.items()}
    assert len(set(kept.values())) == len(kept)


def counted(monkeypatch: pytest.MonkeyPatch, place: Any, name: str) -> list[Any]:
    calls: list[Any] = []
    inner: Callable[..., Any] = getattr(place, name)

    def call(*args: Any, **kwargs: Any) -> Any:
        calls.append(args)
        return inner(*args, **kwargs)

    monkeypatch.setattr(place, name, call)
    return calls


def test_synflow_scores_once_where_no_level_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    passes = counted(monkeypatch, synflow.SynFlow, "scores")
    rc.plan(network(), X, rc.Budget(params="3x"), "synflow")
    assert len(passes) == 1
    rc.plan(network(), X, rc.Budget(params="3x"), "synflow", evaluator="density")
    assert len(passes) > 10


@pytest.mark.parametrize("evaluator", list(EVALUATORS))
def test_no_criterion_means_synflow_exactly_where_the_evaluator_reads_one(evaluator: str) -> None:
    plan = rc.plan(network(), X, rc.Budget(params="3x"), evaluator=evaluator)
    assert plan.criterion == ("synflow" if EVALUATORS[evaluator].reads else "")
    if EVALUATORS[evaluator].reads:
        assert plan == rc.plan(network(), X, rc.Budget(params="3x"), "synflow", evaluator=evaluator)


def test_a_judge_asked_again_scores_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = counted(monkeypatch, criteria, "score")
    judge = Judge(network(), X, "magnitude", "fan_in", None, None, 0)
    assert judge.saliency(0.5) is judge.saliency(0.1) and len(calls) == 1
    deep = Judge(network(), X, "magnitude", "density", None, None, 0)
    assert deep.saliency(0.5) is not deep.saliency(0.1) and len(calls) == 3


@pytest.mark.parametrize("criterion", ["snip", "grasp"])
def test_criteria_that_need_data_say_so_under_every_evaluator(criterion: str) -> None:
    with pytest.raises(CriterionError, match="data="):
        rc.plan(network(), X, rc.Budget(params="3x"), criterion)


class Signs(nn.Module):
    """Its outputs are minus what its layers say: under absolute weights nothing positive comes out of it."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(12, 32), nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        return -self.last(self.first(x).relu())


@pytest.mark.parametrize("evaluator", ["fan_in", "density", "reach", "concentration", "ablation"])
@pytest.mark.parametrize("criterion", ["magnitude", "random"])
def test_criteria_that_run_no_network_refuse_none(criterion: str, evaluator: str) -> None:
    torch.manual_seed(0)
    plan = rc.plan(Signs(), torch.randn(2, 12), rc.Budget(params=0.5), criterion, evaluator=evaluator)
    assert plan.rows[0].width < 32


def test_a_plan_whose_rows_have_densities_still_loads() -> None:
    values = rc.plan(network(), X, rc.Budget(params="3x"), evaluator="density").to_dict()
    assert all(0 < row["density"] <= 1 for row in values["rows"])
    assert rc.Plan.from_dict(values).to_dict() == values
