"""``rc.prune_iteratively``: cut a trained network in steps, repaired and tuned in between."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from torch import nn

from reconvene.artifact.curve import PruningCurve, StepRecord
from reconvene.costs import Budget
from reconvene.criteria.base import Loss
from reconvene.criteria.batches import repeatable
from reconvene.errors import ArgumentError
from reconvene.planning.arguments import PLAN_CHECKS, check_steps
from reconvene.planning.limits import LayerLimits
from reconvene.planning.options import Options
from reconvene.planning.pruning import prune_by
from reconvene.planning.schedule import PruningSchedule
from reconvene.planning.session import Data
from reconvene.planning.target import DeviceLike, Target
from reconvene.structure.copies import copy_model
from reconvene.surgery import Plan
from reconvene.surgery.compose import compose_plans
from reconvene.surgery.history import note_plans, plans_of
from reconvene.training.tuning import Tuning, tune
from reconvene.utils.arguments import check_number, checked, optional
from reconvene.utils.module_state import kept_modes
from reconvene.utils.progress import ProgressOption, listening, note, stage

Train = Callable[[nn.Module, int], Any]
"""The user's own fine-tuning, in place: of the network after a step, and the number of the step, from 1."""
Metric = Callable[[nn.Module], float]
"""How good a network is; larger is better."""


@checked(**PLAN_CHECKS, steps=check_steps, floor=optional(check_number))
def prune_iteratively(
    model: nn.Module,
    example_inputs: Any,
    budget: Budget,
    steps: int = 5,
    train: Train | Tuning | None = None,
    data: Data | None = None,
    criterion: str | None = None,
    seed: int = 0,
    *,
    metric: Metric | None = None,
    floor: float | None = None,
    pace: str = "geometric",
    rectify: str | None = None,
    keep: Sequence[str] = (),
    widths: Mapping[str, float] = MappingProxyType({}),
    evaluator: str | None = None,
    loss: Loss | None = None,
    round_to: int | None = None,
    device: DeviceLike | None = None,
    size_of: Sequence[str] = (),
    memory_of: str | None = None,
    precision: str | None = None,
    target: str | Path | None = None,
    examples: int | None = None,
    verify: bool = True,
    progress: ProgressOption = None,
) -> nn.Module:
    """Prune a trained network in ``steps``; after each cut it is repaired, and tuned on ``data``.

    By default every step leaves the same share of what is there: after step ``i`` each cost is at most
    ``dense * (limit / dense) ** (i / steps)``. Criteria look at the network again before every step.

    Args:
        model: the trained network, only read.
        example_inputs: as for ``groups``.
        budget: what the last step keeps.
        steps: how many cuts.
        train: the recipe after each cut, a ``Tuning``; or ``train(network, step)``, which tunes the network after step
            1, 2, ... in place. By default ``Tuning()``: the end of a learning rate's schedule again, with the outputs
            of ``model`` to learn from beside the targets. Without data nothing is tuned by default.
        data: as for ``rc.prune``; every step reads them. Batches without targets are learned from ``model`` alone.
        criterion: as for ``rc.prune`` with ``trained=True``, and so are ``rectify`` and everything that follows it.
        seed: the same seed gives the same network.
        metric: ``metric(network)`` says how good a network is, larger is better. It is asked for the dense network and
            three times a step: right after the cut, after the repair, and after tuning.
        floor: a step after which the metric is lower is the last: the result is the network of the step before it, or
            a copy of ``model`` where there is none.
        pace: how fast costs fall: ``geometric``, ``linear``, or ``cubic`` (most of it at first).
        widths: as for ``rc.plan``, kept by the last step; the steps before it come near to them.

    Returns:
        the smaller network. Its ``reconvene_plan`` is one plan of ``model``, so it can be saved as any other, and its
        ``reconvene_curve`` says how each step fared; printed, that is a table.

    Raises:
        BudgetError: the budget cannot be kept; it is raised before the first step.
        ArgumentError: a floor without a metric.
        TrainingError: tuning diverges.
        Other errors are those of ``rc.plan`` and ``rc.rectify``.

    >>> import torch
    >>> import reconvene as rc
    >>> from torch import nn
    >>> model = nn.Sequential(nn.Conv2d(3, 32, 3), nn.ReLU(), nn.Conv2d(32, 32, 3), nn.ReLU(), nn.Conv2d(32, 8, 3))
    >>> x = torch.randn(1, 3, 16, 16)
    >>> def tune(network, step):
    ...     pass  # an epoch of your own training
    >>> small = rc.prune_iteratively(model, x, rc.Budget(params="4x"), steps=2, train=tune)
    >>> small.reconvene_plan.costs["pruned"]["params"] <= small.reconvene_plan.costs["dense"]["params"] / 4
    True
    """
    if floor is not None and metric is None:
        raise ArgumentError(
            f"floor={floor!r} limits a metric, and there is none. Give metric=, a function of a network"
        )
    data = None if data is None else repeatable(data, seed=seed)
    options = Options(
        criterion=criterion,
        data=data,
        seed=seed,
        trained=True,
        limits=LayerLimits(tuple(keep), dict(widths)),
        evaluator=evaluator,
        loss=loss,
        round_to=round_to,
        target=Target(device, tuple(size_of), memory_of, precision, target),
        examples=examples,
        verify=verify,
    )
    with listening(progress), stage("pruning in steps", steps) as work:
        schedule = PruningSchedule.of(model, example_inputs, budget, options, steps=steps, pace=pace)
        tuner = _tuner(model, example_inputs, train, options)
        network: nn.Module | None = None
        records: list[StepRecord] = []
        for step in range(1, steps + 1):
            scores = _Scores(metric)
            smaller = prune_step(
                model, network, example_inputs, schedule, options, step, rectify=rectify, see=scores.add
            )
            scores.add(smaller)
            if tuner is not None:
                with stage("tuning"):
                    tuner(smaller, step)
                scores.add(smaller)
            records.append(StepRecord(step, plan_of(smaller).costs["pruned"], *scores.values))
            if floor is not None and not scores.values[-1] >= floor:
                note(f"step {step} is below the floor: {scores.values[-1]:.4g} < {floor:.4g}")
                break
            network = smaller
            work.advance()
        result = copy_model(model) if network is None else network
        number = steps if network is smaller else step - 1
        dense = _Scores(metric).add(model)
    curve = PruningCurve(tuple(records), number, "metric" if metric else None, dense, floor, split="")
    object.__setattr__(result, "reconvene_curve", curve)
    return result


def prune_step(
    model: nn.Module,
    network: nn.Module | None,
    example_inputs: Any,
    schedule: PruningSchedule,
    options: Options,
    step: int,
    *,
    rectify: str | None = None,
    see: Callable[[nn.Module], object] | None = None,
) -> nn.Module:
    """The network of a step, cut and repaired; its plan is one of ``model``.

    Args:
        model: the dense network.
        network: that of the step before, None before the first.
        example_inputs: as for ``groups``.
        schedule: what the steps keep.
        options: how to plan.
        step: its number, from 1.
        rectify: as for ``rc.prune``.
        see: sees the network right after the cut.
    """
    budget, options = schedule.budget(step), schedule.options(options, step)
    before = model if network is None else network
    with stage(f"step {step} of {schedule.steps}: pruning to {budget}"):
        small, plan, _ = prune_by(before, example_inputs, budget, options, rectify=rectify, see=see)
    if network is not None:
        plan = compose_plans(model, example_inputs, plan_of(network), plan)
    if step == schedule.steps:
        plan = replace(plan, budget=dict(schedule.asked))
    note_plans(small, (*plans_of(model), plan))
    return small


def plan_of(network: nn.Module) -> Plan:
    """The plan that made a network."""
    plan = getattr(network, "reconvene_plan", None)
    assert isinstance(plan, Plan), "a step made it"
    return plan


def _tuner(model: nn.Module, example_inputs: Any, train: Train | Tuning | None, options: Options) -> Train | None:
    """What tunes the network of a step; None where nothing does."""
    if train is not None and not isinstance(train, Tuning):
        return train
    if train is None and options.data is None:
        return None
    tuning = Tuning() if train is None else train
    tuning.check()
    if options.data is None:
        raise ArgumentError(f"train={tuning} needs data to tune on. Give data=, or a function train(network, step)")
    data, loss = options.data, options.loss

    def tuned(network: nn.Module, step: int) -> None:
        seed = options.seed + 1000 * step
        tune(network, data, example_inputs, teacher=model, loss=loss, tuning=tuning, seed=seed)

    return tuned if tuning.epochs else None


class _Scores:
    """The metric of one step's network, each time it is looked at; none without a metric."""

    def __init__(self, metric: Metric | None) -> None:
        self.metric = metric
        self.values: list[float] = []

    def add(self, network: nn.Module) -> float | None:
        """Measure now; its modes are as before afterwards."""
        if self.metric is None:
            return None
        with kept_modes(network):
            self.values.append(float(self.metric(network)))
        return self.values[-1]
