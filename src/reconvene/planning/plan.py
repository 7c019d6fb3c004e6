"""``rc.plan`` and ``rc.prune``: the main road, from a model and a budget to a plan, whatever the budget is about."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from torch import nn

from reconvene.costs import Budget
from reconvene.criteria.base import Loss
from reconvene.planning.arguments import PLAN_CHECKS
from reconvene.planning.bits.planner import check_activation_bits, check_bits
from reconvene.planning.limits import LayerLimits
from reconvene.planning.options import Options
from reconvene.planning.pruning import plan_by, prune_by
from reconvene.planning.session import Data
from reconvene.planning.target import DeviceLike, Target
from reconvene.surgery import Plan
from reconvene.utils.arguments import checked
from reconvene.utils.progress import ProgressOption, listening


@checked(**PLAN_CHECKS)
def plan(
    model: nn.Module,
    example_inputs: Any,
    budget: Budget,
    criterion: str | None = None,
    data: Data | None = None,
    seed: int = 0,
    *,
    trained: bool = False,
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
    bits: Sequence[int] | None = None,
    activation_bits: Sequence[int] = (8,),
    examples: int | None = None,
    verify: bool = True,
    progress: ProgressOption = None,
) -> Plan:
    """Choose which channels stay so that every budget is kept.

    The model, its mode and the random state are left as they were. Calls from several threads run one after the other,
    since a model is borrowed while it is looked at: meanwhile nothing else may run it.

    Args:
        model: the model, untrained or, with ``trained``, trained.
        example_inputs: as for ``groups``; budgets on memory and latency are for inputs of this size, those on
            MACs for one example of them.
        budget: limits to keep, such as ``Budget(params="16x", latency="5ms")``.
        criterion: what scores weights (see ``sensitivity``) and so chooses which channels of a group stay. By default
            only what the evaluator needs: with ``fan_in`` nothing is scored, and the first channels of each group stay
            (at initialization the channels of a group are drawn alike, so none is better than another); with the other
            evaluators ``synflow``. Of a ``trained`` network ``taylor`` with data, ``group_l2`` without.
        data: batches for criteria that need data: ``(inputs, target)``, with several targets, or mappings.
        seed: the same seed gives the same plan, byte for byte, unless its latency was measured.
        trained: whether the weights are worth keeping, so that channels are chosen by what they do.
        keep: layers of which nothing changes, neither what they give nor what they read, by name or pattern:
            ``["head", "stem.*"]``. A name stands for all layers in it.
        widths: how many channels layers give, exactly: a share or a count by name or pattern, ``{"layer1": 0.5}``.
        evaluator: what judges how much a group can lose; by default ``removed_loss`` for criteria that score channels,
            else ``fan_in``.
        loss: ``loss(output, target)`` for criteria that need one; cross entropy by default. The target of a batch that
            is a mapping is that mapping.
        round_to: widths become multiples of this where a group is wide enough; by default 8, or finer where that leaves
            more than a tenth of the budget unused, and with a budget on latency the step of the device.
        device: whose latency it is: a profile, its file or its name, or ``here``, which is this machine in ONNX Runtime
            on one thread: its layers are measured when they are first met, and kept. A budget on latency is about
            ``here`` by default; without such a budget the plan says what is predicted for the device that is given.
        size_of: formats whose files a budget on size is about, such as ``["onnx"]``: they are exported and weighed. By
            default it is about ``model.safetensors``.
        memory_of: whose plan of activations a budget on peak memory is about: ``onnx`` or ``executorch``, looked up in
            the runtime itself. By default PyTorch's own, as ``measure`` counts it.
        examples: training examples of an epoch, for the training FLOPs that the plan tells; by default those of
            ``data`` where that is a ``DataLoader``.
        precision: ``int8`` makes budgets on latency, on the size of exported files and on the memory of a runtime those
            of the quantised network. By default that of the device's profile, else ``fp32``.
        target: the chip whose ``cycles``, ``energy`` and the like budgets may limit, and the plan tells: ``mpic``,
            ``ne16``, ``ethos-u55-128`` (docs/npu.md), or the path of a cost file (docs/extending/cost-file.md).
        bits: decide bits of weights as well, from these: ``(0, 2, 4, 8)``. Zero bits is a channel that leaves its
            group; others are free for every output channel of every layer. ``size`` is then that of packed weights.
            The plan has ``plan.bits``, and ``rc.export(small, ..., quantize="plan")`` writes them (docs/bits.md).
        activation_bits: with ``bits``, what layers read gets one of these, ``(2, 4, 8)``, where budgets on bit
            operations, cycles or energy gain by it.
        verify: whether the plan ends with a comparison of the small network and the silenced one (``Plan.mask``) on
            the example inputs. A difference pins the call that causes it and plans again. Not possible for a model on
            meta, which the plan notes.
        progress: how progress is shown: by default a line on a terminal and in a notebook; ``False`` for nothing,
            ``True`` for lines in a log, too, or a function of how much is done, of how much, and what is at work.

    Raises:
        BudgetError: the budget cannot be kept; the message and ``error.floor`` say what could, and what ``keep`` and
            ``widths`` hold of it.
        UnknownNameError: no layer has a name in ``keep`` or ``widths``, or there is no such criterion or evaluator.
        ArgumentError: a width is no share and no count, or cannot be had.
        StructureError: nothing can be pruned; the message says why.
        DeviceError: the profile is missing, damaged, or does not know a layer of this model.
        CostFileError: the cost file is damaged, or says nothing of a layer of this model.

    >>> import torch
    >>> import reconvene as rc
    >>> from torch import nn
    >>> model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 8, 3))
    >>> x = torch.randn(1, 3, 16, 16)
    >>> plan = rc.plan(model, x, rc.Budget(params="2x"))
    >>> [(row.name, row.dense, row.width) for row in plan.rows]
    [('0', 16, 7)]
    """
    options = Options(
        criterion=criterion,
        data=data,
        seed=seed,
        trained=trained,
        limits=LayerLimits(tuple(keep), dict(widths)),
        evaluator=evaluator,
        loss=loss,
        round_to=round_to,
        target=Target(device, tuple(size_of), memory_of, precision, target),
        bits=None if bits is None else check_bits(bits),
        activation_bits=check_activation_bits(activation_bits),
        examples=examples,
        verify=verify,
    )
    with listening(progress):
        return plan_by(model, example_inputs, budget, options)


@checked(**PLAN_CHECKS)
def prune(
    model: nn.Module,
    example_inputs: Any,
    budget: Budget,
    criterion: str | None = None,
    data: Data | None = None,
    seed: int = 0,
    *,
    rectify: str | None = None,
    trained: bool = False,
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
    bits: Sequence[int] | None = None,
    activation_bits: Sequence[int] = (8,),
    examples: int | None = None,
    verify: bool = True,
    progress: ProgressOption = None,
) -> nn.Module:
    """Plan, apply and rectify in one call; the result is a new module and carries ``reconvene_plan``.

    Args and errors as for ``plan``. ``rectify``: a way of ``rc.rectify``. By default
    ``reinit``, which draws weights anew; of a ``trained`` network ``reconstruct`` with data, and ``keep`` without. A
    network that looks trained gets a warning where nothing says whether its weights are to be kept.

    >>> import torch
    >>> import reconvene as rc
    >>> from torch import nn
    >>> model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 8, 3))
    >>> x = torch.randn(1, 3, 16, 16)
    >>> small = rc.prune(model, x, rc.Budget(params="2x"))
    >>> small[0]
    Conv2d(3, 7, kernel_size=(3, 3), stride=(1, 1))
    """
    options = Options(
        criterion=criterion,
        data=data,
        seed=seed,
        trained=trained,
        limits=LayerLimits(tuple(keep), dict(widths)),
        evaluator=evaluator,
        loss=loss,
        round_to=round_to,
        target=Target(device, tuple(size_of), memory_of, precision, target),
        bits=None if bits is None else check_bits(bits),
        activation_bits=check_activation_bits(activation_bits),
        examples=examples,
        verify=verify,
    )
    with listening(progress):
        return prune_by(model, example_inputs, budget, options, rectify=rectify).model
