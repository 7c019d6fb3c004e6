"""The main road in one place: structure, saliency, sensitivity, allocation, plan, surgery, rectification."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from reconvene import rectifier, saliency
from reconvene.allocation import Allocation, Budget, allocate
from reconvene.allocation.costs import CostModel
from reconvene.errors import CriterionError, ModelError, StructureError
from reconvene.evaluator import Sensitivity, evaluate
from reconvene.rectifier import RectifyReport
from reconvene.saliency import Saliency
from reconvene.structure import Group, Keep, Structure, analyse
from reconvene.structure.capture import is_lazy
from reconvene.structure.replay import pin_site, replay
from reconvene.surgery import Plan, Row, make_plan
from reconvene.surgery.ranges import to_text

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
    _check_finite(model)
    structure = _prunable(analyse(model, example_inputs))
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
    timings: dict[str, float] = {}
    _check_finite(model)
    with _timed(timings, "structure"):
        structure = _prunable(analyse(model, example_inputs))
        costs = CostModel(structure)
    limits = budget.limits({name: float(value) for name, value in costs.dense.items()})
    density = _density_of_interest(limits, costs.dense)
    judge = _Judge(model, example_inputs, criterion, evaluator, data, loss, seed)
    with _timed(timings, "saliency"):
        scores = judge.saliency(density)
    while True:
        with _timed(timings, "sensitivity"):
            curves = judge.sensitivity(structure, scores, density)
        with _timed(timings, "allocation"):
            allocation = allocate(structure, curves, costs, budget, round_to=round_to)
        keep = _best_channels(curves, allocation.widths)
        with _timed(timings, "replay"):
            rerun = replay(model, example_inputs, structure, keep)
        if rerun.failure is None:
            break
        structure = _prunable(pin_site(model, structure, *rerun.failure))
        costs = CostModel(structure)
    with _timed(timings, "spread"):
        spread = rectifier.spread(model, example_inputs, seed=seed)
    with _timed(timings, "plan"):
        made = make_plan(
            model,
            structure,
            keep,
            _rows(allocation, curves, keep),
            scalars=rerun.scalars,
            criterion=criterion,
            evaluator=evaluator,
            seed=seed,
            data=scores.data,
            budget=dict(budget.asked),
            limits=allocation.limits,
            costs={"dense": dict(allocation.dense), "pruned": dict(allocation.costs)},
            spread=spread,
        )
    made.timings = timings
    return made


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
    with _timed(made.timings, "surgery"):
        small = made.apply(model)
    with _timed(made.timings, "rectify"):
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


def _prunable(structure: Structure) -> Structure:
    if not structure.prunable:
        reasons = dict.fromkeys(str(group.pinned) for group in structure.groups)
        because = "; ".join(list(reasons)[:4]) or "it has no parameters with channels"
        raise StructureError(f"nothing of this model can be pruned: {because}")
    return structure


def _check_finite(model: nn.Module) -> None:
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if is_lazy(tensor):
            raise ModelError(f"{name} is not initialised yet (a lazy module). Run the model once, then prune it.")
        if tensor.is_floating_point() and not tensor.is_meta and not torch.isfinite(tensor).all():
            raise CriterionError(
                f"{name} holds values that are not finite (NaN or infinity). Initialise the model again."
            )


def _density_of_interest(limits: dict[str, float], dense: dict[str, int]) -> float:
    """How far down the criterion should look: somewhat past the tightest budget, since rounding moves groups about."""
    tightest = min((limit / dense[cost] for cost, limit in limits.items() if cost in dense), default=1.0)
    return float(min(0.5, max(tightest / 2, 1e-4)))


def _best_channels(curves: Sensitivity, widths: NDArray[np.int64]) -> Keep:
    """The channels with the highest scores, ascending; of equal scores the first."""
    return [
        np.sort(np.argsort(-curve.channel_score, kind="stable")[:width]).astype(np.int64)
        for curve, width in zip(curves.curves, widths, strict=True)
    ]


def _rows(allocation: Allocation, curves: Sensitivity, keep: Keep) -> list[Row]:
    return [
        Row(row.group, row.dense, row.width, to_text(kept), row.loss, curve.density, row.why)
        for row, curve, kept in zip(allocation.rows, curves.curves, keep, strict=True)
    ]


@contextmanager
def _timed(timings: dict[str, float], step: str) -> Iterator[None]:
    start = time.perf_counter()
    try:
        yield
    finally:
        timings[step] = timings.get(step, 0.0) + time.perf_counter() - start
