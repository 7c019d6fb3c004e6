"""The main road in one place: structure, saliency, sensitivity, allocation, plan, surgery, rectification."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from reconvene import criteria, rectifier
from reconvene.criteria.base import Loss
from reconvene.criteria.registry import criterion as criterion_named
from reconvene.errors import CriterionError, PlanError
from reconvene.evaluator import Sensitivity
from reconvene.planning.assemble import check_finite, prunable
from reconvene.planning.session import Data, Judge
from reconvene.rectifier import RectifyReport
from reconvene.structure import Groups, analyse
from reconvene.structure.nesting import on_model
from reconvene.surgery import Plan
from reconvene.utils.arguments import check_model, check_number, check_seed, checked, instance_of, optional
from reconvene.utils.module_tree import device_of
from reconvene.utils.progress import ProgressOption, listening, stage

_check_plan = instance_of(
    Plan, "rc.plan(...) gives one, and small.reconvene_plan of a pruned model holds it", PlanError
)


@checked(model=check_model)
def groups(model: nn.Module, example_inputs: Any) -> Groups:
    """Channels of ``model`` that can only leave together, prunable groups first, then pinned ones with the reason.

    Args:
        model: any ``nn.Module``; it is only read.
        example_inputs: a tensor, a tuple or list of positional arguments, or a mapping of keyword arguments.

    Raises:
        ModelError: the model does not run on these inputs, or cannot be pruned by nature.

    >>> import torch
    >>> import reconvene as rc
    >>> from torch import nn
    >>> model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 8, 3))
    >>> x = torch.randn(1, 3, 16, 16)
    >>> [(group.name, group.width, group.prunable) for group in rc.groups(model, x)]
    [('0', 16, True), ('0', 3, False), ('2', 8, False)]
    """
    return Groups(analyse(model, example_inputs).groups)


@on_model
@checked(model=check_model, seed=check_seed, density=check_number)
def sensitivity(
    model: nn.Module,
    example_inputs: Any,
    criterion: str | None = None,
    *,
    evaluator: str | None = None,
    data: Data | None = None,
    loss: Loss | None = None,
    seed: int = 0,
    density: float = 1 / 16,
    progress: ProgressOption = None,
) -> Sensitivity:
    """What every group loses when it is cut: a table of group, sensitivity, prunable (PSE).

    Evaluators that read a criterion's levels also give the density and the width that it implies.

    Our own definition, see ``docs/method.md``.

    Args:
        model: the model, only read.
        example_inputs: as for ``groups``.
        criterion: ``random``, ``magnitude``, ``snip``, ``grasp`` or ``synflow`` of untrained networks; ``taylor``,
            ``obd``, ``group_l2``, ``l1``, ``l2``, ``slimming``, ``lamp``, ``fpgm``, ``hrank`` or ``chip`` of trained
            ones, which score channels, ``activity`` or ``spike_rate`` of spiking ones. By default none where the
            evaluator reads none (``fan_in``), else ``synflow``.
        evaluator: ``fan_in``, ``density``, ``reach``, ``concentration``, ``ablation`` or ``removed_loss``. By default
            ``removed_loss`` for criteria that score channels, else ``fan_in``.
        data: batches ``(inputs, target)`` for criteria that need data.
        loss: ``loss(output, target)``; cross entropy by default.
        seed: of everything random.
        density: the share of weights at which single numbers are given.
        progress: as for ``plan``.

    Raises:
        UnknownNameError: no such criterion or evaluator (the message lists them).
        CriterionError: no data for a criterion that needs it, or weights that are not finite.

    >>> import torch
    >>> import reconvene as rc
    >>> from torch import nn
    >>> model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 8, 3))
    >>> x = torch.randn(1, 3, 16, 16)
    >>> table = rc.sensitivity(model, x)
    >>> [(curve.group, curve.width) for curve in table.curves]
    [('0', 16)]
    """
    check_finite(model)
    with listening(progress):
        with stage("finding groups"):
            structure = prunable(analyse(model, example_inputs))
        judge = Judge(model, example_inputs, criterion, evaluator, data, loss, seed)
        return judge.sensitivity(structure, judge.saliency(density, structure), density)


@checked(small=check_model, plan=_check_plan, seed=optional(check_seed))
def rectify(
    small: nn.Module,
    plan: Plan,
    example_inputs: Any,
    how: str = "reinit",
    *,
    seed: int | None = None,
    model: nn.Module | None = None,
    data: Data | None = None,
    progress: ProgressOption = None,
) -> RectifyReport:
    """Repair every layer that the cut touched, in place (RLR); returns the spread ratios as a table.

    Args:
        small: what ``plan.apply`` gave.
        plan: the plan, which remembers the dense network's activation spread.
        example_inputs: as for ``plan``.
        how: of an untrained network, ``reinit`` draws fresh weights at the dense spread, ``rescale`` scales the kept
            ones, ``keep`` leaves them. Of a trained one, ``recalibrate`` takes the statistics of norms from data again,
            and ``reconstruct`` fits the kept weights to what the dense network gives on data, then recalibrates.
        seed: of the fresh weights, and of what data draw; the plan's by default.
        model: the dense network, for ``reconstruct``; only read.
        data: for ``recalibrate`` (about 2,000 examples) and ``reconstruct`` (512), taken evenly from all data that have
            a length: batches of inputs, or with targets, which are not read.
        progress: as for ``plan``.

    Raises:
        UnknownNameError: no such way.
        DataError: data are missing or do not fit.
        ModelError: ``model`` is missing, or a network does not run.

    >>> import torch
    >>> import reconvene as rc
    >>> from torch import nn
    >>> model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 8, 3))
    >>> x = torch.randn(1, 3, 16, 16)
    >>> plan = rc.plan(model, x, rc.Budget(params="2x"))
    >>> small = plan.apply(model)
    >>> report = rc.rectify(small, plan, x, how="reinit")
    >>> [row.layer for row in report.rows]
    ['0', '2']
    """
    with listening(progress), stage(f"rectifying by {how}"):
        return rectifier.rectify(small, plan, example_inputs, how=how, seed=seed, model=model, data=data)


@checked(model=check_model, density=check_number, seed=check_seed)
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
    from us: a model of ours knows the shape of its input. The rest is as for ``reconvene.criteria.masks``.

    Raises:
        CriterionError: what the criterion needs is missing, or the model cannot be scored.
        UnknownNameError: no such criterion (the message lists them).

    >>> import torch
    >>> import reconvene as rc
    >>> from torch import nn
    >>> model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 8, 3))
    >>> x = torch.randn(1, 3, 16, 16)
    >>> kept = rc.masks(model, 0.25, "magnitude")
    >>> sum(int(mask.sum()) for mask in kept.values()), sum(mask.numel() for mask in kept.values())
    (396, 1584)
    """
    if example_inputs is None and criterion_named(criterion).needs == "example_inputs":
        shape = getattr(getattr(model, "reconvene_source", None), "input_shape", None)
        if shape is None:
            raise CriterionError(
                f"{criterion} runs the model, and what {type(model).__name__} takes is not known, since Reconvene did "
                "not build it. Pass example_inputs, such as torch.randn(1, 3, 32, 32)"
            )
        example_inputs = torch.zeros(1, *shape, device=device_of(model))
    return criteria.masks_at(
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
