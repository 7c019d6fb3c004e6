"""The main road in one place: structure, saliency, sensitivity, allocation, plan, surgery, rectification."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from reconvene import rectifier, saliency
from reconvene.allocation import Budget, allocate
from reconvene.allocation.costs import CostModel
from reconvene.errors import CriterionError
from reconvene.evaluator import Sensitivity, evaluate
from reconvene.planning import Choice, check_finite, chosen, plan_by, prunable, timed
from reconvene.rectifier import RectifyReport
from reconvene.saliency import Saliency
from reconvene.structure import Group, Structure, analyse
from reconvene.surgery import Plan

Loss = Callable[[Any, Any], Tensor]
Data = Iterable[Any]


def groups(model: nn.Module, example_inputs: Any) -> list[Group]:
    """Channels of ``model`` that can only leave together, prunable groups first, then pinned ones with the reason.

    Args:
        model: any ``nn.Module``; it is only read.
        example_inputs: a tensor, a tuple or list of positional arguments, or a mapping of keyword arguments.

    Raises:
        ModelError: the model does not run on these inputs, or cannot be pruned by nature.
    """
    return list(analyse(model, example_inputs).groups)


def sensitivity(
    model: nn.Module,
    example_inputs: Any,
    criterion: str = "synflow",
    *,
    evaluator: str = "density",
    data: Data | None = None,
    loss: Loss | None = None,
    seed: int = 0,
    density: float = 1 / 16,
) -> Sensitivity:
    """What every group loses when it is cut: a table of group, density, sensitivity, prunable (PSE).

    Our own definition, see ``docs/method.md``.

    Args:
        model: the untrained model, only read.
        example_inputs: as for ``groups``.
        criterion: ``random``, ``magnitude``, ``snip``, ``grasp`` or ``synflow``.
        evaluator: ``density``, ``concentration`` or ``ablation``.
        data: batches ``(inputs, target)`` for criteria that need data.
        loss: ``loss(output, target)``; cross entropy by default.
        seed: of everything random.
        density: the share of weights at which single numbers are given.

    Raises:
        UnknownNameError: no such criterion or evaluator (the message lists them).
        CriterionError: no data for a criterion that needs it, or weights that are not finite.
    """
    check_finite(model)
    structure = prunable(analyse(model, example_inputs))
    judge = _Judge(model, example_inputs, criterion, evaluator, data, loss, seed)
    return judge.sensitivity(structure, judge.saliency(density), density)


def plan(
    model: nn.Module,
    example_inputs: Any,
    budget: Budget,
    criterion: str = "synflow",
    data: Data | None = None,
    seed: int = 0,
    *,
    evaluator: str = "density",
    loss: Loss | None = None,
    round_to: int = 8,
) -> Plan:
    """Choose which channels stay so that every budget is kept.

    The model, its mode and the random state are left as they were.

    Args:
        model: the untrained model.
        example_inputs: as for ``groups``; budgets on MACs and memory are for inputs of this size.
        budget: limits to keep, such as ``Budget(params="16x", macs="4x")``.
        criterion: what scores weights (see ``sensitivity``).
        data: batches ``(inputs, target)`` for criteria that need data.
        seed: the same seed gives the same plan, byte for byte.
        evaluator: what judges how much a group can lose.
        loss: ``loss(output, target)`` for criteria that need one; cross entropy by default.
        round_to: widths become multiples of this where a group is wide enough.

    Raises:
        BudgetError: the budget cannot be kept; the message and ``error.floor`` say what could.
        StructureError: nothing can be pruned; the message says why.
    """
    scores: list[Saliency] = []

    def choose(structure: Structure, costs: CostModel, timings: dict[str, float]) -> Choice:
        density = _density_of_interest(budget.limits(_floats(costs.dense)), costs.dense)
        judge = _Judge(model, example_inputs, criterion, evaluator, data, loss, seed)
        if not scores:
            with timed(timings, "saliency"):
                scores.append(judge.saliency(density))
        with timed(timings, "sensitivity"):
            curves = judge.sensitivity(structure, scores[0], density)
        with timed(timings, "allocation"):
            allocation = allocate(structure, curves, costs, budget, round_to=round_to)
        return chosen(curves, allocation, budget, data=scores[0].data)

    return plan_by(model, example_inputs, choose, seed=seed)


def prune(
    model: nn.Module,
    example_inputs: Any,
    budget: Budget,
    criterion: str = "synflow",
    data: Data | None = None,
    seed: int = 0,
    *,
    rectify: str = "reinit",
    evaluator: str = "density",
    loss: Loss | None = None,
    round_to: int = 8,
) -> nn.Module:
    """Plan, apply and rectify in one call; the result is a new module and carries ``reconvene_plan``.

    Args and errors as for ``plan``; ``rectify`` is ``reinit``, ``rescale`` or ``keep``.
    """
    made = plan(model, example_inputs, budget, criterion, data, seed, evaluator=evaluator, loss=loss, round_to=round_to)
    with timed(made.timings, "surgery"):
        small = made.apply(model)
    with timed(made.timings, "rectify"):
        rectifier.rectify(small, made, example_inputs, how=rectify, seed=seed)
    return small


def rectify(
    small: nn.Module, plan: Plan, example_inputs: Any, how: str = "reinit", *, seed: int | None = None
) -> RectifyReport:
    """Give every touched layer a healthy initialization again, in place (RLR); returns the spread ratios as a table.

    Args:
        small: what ``plan.apply`` gave.
        plan: the plan, which remembers the dense network's activation spread.
        example_inputs: as for ``plan``.
        how: ``reinit`` draws fresh weights at the dense spread, ``rescale`` scales the kept ones, ``keep`` leaves them.
        seed: of the fresh weights; the plan's by default.

    Raises:
        UnknownNameError: no such way.
    """
    return rectifier.rectify(small, plan, example_inputs, how=how, seed=seed)


def masks(
    model: nn.Module,
    density: float,
    criterion: str = "synflow",
    *,
    example_inputs: Any = None,
    data: Data | None = None,
    loss: Loss | None = None,
    seed: int = 0,
    rounds: int | None = None,
    layerwise: str | None = None,
) -> dict[str, Tensor]:
    """Unstructured masks that keep ``density`` of all weights: a bool tensor by parameter name, on the CPU.

    ``example_inputs`` are needed only by criteria that run the model on them, and only when the model did not come
    from us: a model of ours knows the shape of its input. The rest is as for ``reconvene.saliency.masks``.

    Raises:
        CriterionError: what the criterion needs is missing, or the model cannot be scored.
        UnknownNameError: no such criterion (the message lists them).
    """
    if example_inputs is None and criterion in saliency.CRITERIA and criterion not in _INPUTLESS:
        shape = getattr(getattr(model, "reconvene_source", None), "input_shape", None)
        if shape is None:
            raise CriterionError(
                f"{criterion} runs the model, and what {type(model).__name__} takes is not known, since Reconvene did "
                "not build it. Pass example_inputs, such as torch.randn(1, 3, 32, 32)"
            )
        example_inputs = torch.zeros(1, *shape, device=next((p.device for p in model.parameters()), None))
    return saliency.masks(
        model,
        density,
        criterion,
        example_inputs=example_inputs,
        data=data,
        loss=loss,
        seed=seed,
        rounds=rounds,
        layerwise=layerwise,
    )


_INPUTLESS = frozenset({"random", "magnitude", "snip", "grasp"})  # they look at weights alone, or at data


class _Judge:
    """Criterion and evaluator with everything they need, so that a plan can ask again after a repair."""

    def __init__(
        self,
        model: nn.Module,
        example_inputs: Any,
        criterion: str,
        evaluator: str,
        data: Data | None,
        loss: Loss | None,
        seed: int,
    ) -> None:
        self.model, self.example_inputs = model, example_inputs
        self.criterion, self.evaluator = criterion, evaluator
        self.data, self.loss, self.seed = data, loss, seed

    def saliency(self, density: float) -> Saliency:
        return saliency.score(
            self.model,
            self.example_inputs,
            self.criterion,
            data=self.data,
            loss=self.loss,
            seed=self.seed,
            density=density,
        )

    def sensitivity(self, structure: Structure, scores: Saliency, density: float) -> Sensitivity:
        objective = None
        if self.evaluator == "ablation":
            objective = saliency.objective(
                self.model, self.example_inputs, self.criterion, data=self.data, loss=self.loss, seed=self.seed
            )
        return evaluate(structure, scores, evaluator=self.evaluator, objective=objective, density=density)


def _floats(values: dict[str, int]) -> dict[str, float]:
    return {name: float(value) for name, value in values.items()}


def _density_of_interest(limits: dict[str, float], dense: dict[str, int]) -> float:
    """How far down the criterion should look: somewhat past the tightest budget, since rounding moves groups about."""
    tightest = min((limit / dense[cost] for cost, limit in limits.items() if cost in dense), default=1.0)
    return float(min(0.5, max(tightest / 2, 1e-4)))
