"""``rc.plan`` and ``rc.prune``: the main road, from a model and a budget to a plan, whatever the budget is about."""

from __future__ import annotations

from collections.abc import Callable, Sequence, Sized
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import nn
from torch.utils.data import DataLoader

from reconvene import devices, rectifier
from reconvene.allocation import Budget
from reconvene.deploy.memory import PLANS
from reconvene.deploy.quantisation import PRECISIONS
from reconvene.errors import UnknownNameError
from reconvene.planning.arguments import PLAN_CHECKS
from reconvene.planning.assemble import timed
from reconvene.planning.latency import Device, Timely, note_predicted_latency, resolve
from reconvene.planning.runtime_costs import Keep, file_size, keep_weighed, runtime_memory
from reconvene.planning.session import Data, Foresee, Loss, Planner
from reconvene.structure.restore import exclusive
from reconvene.surgery import Plan
from reconvene.utils.arguments import checked

ROUND_TO = 8


@checked(**PLAN_CHECKS)
def plan(
    model: nn.Module,
    example_inputs: Any,
    budget: Budget,
    criterion: str | None = None,
    data: Data | None = None,
    seed: int = 0,
    *,
    evaluator: str = "fan_in",
    loss: Loss | None = None,
    round_to: int | None = None,
    device: Device | None = None,
    size_of: Sequence[str] = (),
    memory_of: str | None = None,
    precision: str | None = None,
    examples: int | None = None,
    verify: bool = True,
    say: Callable[[str], None] = devices.store.silent,
) -> Plan:
    """Choose which channels stay so that every budget is kept.

    The model, its mode and the random state are left as they were. Calls from several threads run one after the other,
    since a model is borrowed while it is looked at: meanwhile nothing else may run it.

    Args:
        model: the untrained model.
        example_inputs: as for ``groups``; budgets on MACs, memory and latency are for inputs of this size.
        budget: limits to keep, such as ``Budget(params="16x", latency="5ms")``.
        criterion: what scores weights (see ``sensitivity``) and so chooses which channels of a group stay. By default
            only what the evaluator needs: with ``fan_in`` nothing is scored, and the first channels of each group stay
            (at initialization the channels of a group are drawn alike, so none is better than another); with the other
            evaluators ``synflow``.
        data: batches ``(inputs, target)`` for criteria that need data.
        seed: the same seed gives the same plan, byte for byte, unless its latency was measured.
        evaluator: what judges how much a group can lose.
        loss: ``loss(output, target)`` for criteria that need one; cross entropy by default.
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
        verify: whether the plan ends with a comparison of the small network and the silenced one (``Plan.mask``) on
            the example inputs. A difference pins the call that causes it and plans again. Not possible for a model on
            meta, which the plan notes.
        say: told what takes time.

    Raises:
        BudgetError: the budget cannot be kept; the message and ``error.floor`` say what could.
        StructureError: nothing can be pruned; the message says why.
        DeviceError: the profile is missing, damaged, or does not know a layer of this model.
    """
    planner = Planner(model, example_inputs, criterion, data, seed, evaluator=evaluator, loss=loss, verify=verify)
    target = Target(device, tuple(size_of), memory_of, precision)
    chosen_plan = plan_with(planner, budget, round_to=round_to, target=target, say=say)
    chosen_plan.examples = _epoch(data) if examples is None else examples
    return chosen_plan


@checked(**PLAN_CHECKS)
def prune(
    model: nn.Module,
    example_inputs: Any,
    budget: Budget,
    criterion: str | None = None,
    data: Data | None = None,
    seed: int = 0,
    *,
    rectify: str = "reinit",
    evaluator: str = "fan_in",
    loss: Loss | None = None,
    round_to: int | None = None,
    device: Device | None = None,
    size_of: Sequence[str] = (),
    memory_of: str | None = None,
    precision: str | None = None,
    examples: int | None = None,
    verify: bool = True,
) -> nn.Module:
    """Plan, apply and rectify in one call; the result is a new module and carries ``reconvene_plan``.

    Args and errors as for ``plan``; ``rectify`` is ``reinit``, ``rescale`` or ``keep``.
    """
    chosen_plan = plan(
        model,
        example_inputs,
        budget,
        criterion,
        data,
        seed,
        evaluator=evaluator,
        loss=loss,
        round_to=round_to,
        device=device,
        size_of=size_of,
        memory_of=memory_of,
        precision=precision,
        examples=examples,
        verify=verify,
    )
    with timed(chosen_plan.timings, "surgery"):
        small = chosen_plan.apply(model)
    with timed(chosen_plan.timings, "rectify"):
        rectifier.rectify(small, chosen_plan, example_inputs, how=rectify, seed=seed)
    return small


@dataclass(frozen=True)
class Target:
    """What budgets on latency, exported size and memory are about; each as for ``plan``."""

    device: Device | None = None
    size_of: tuple[str, ...] = ()
    memory_of: str | None = None
    precision: str | None = None


@exclusive()
def plan_with(
    planner: Planner,
    budget: Budget,
    *,
    round_to: int | None = None,
    target: Target = Target(),  # frozen
    say: Callable[[str], None] = devices.store.silent,
) -> Plan:
    """``plan`` for one of many budgets of a model."""
    profile = None
    timings: dict[str, float] = {}
    if target.precision not in (None, *PRECISIONS):
        raise UnknownNameError("precision", target.precision, PRECISIONS)
    if target.memory_of not in (None, *PLANS):
        raise UnknownNameError("plan of memory", str(target.memory_of), PLANS)
    if budget.latency is not None or target.device is not None:
        with timed(timings, "profile"):
            profile = resolve(planner, target.device, say, precision=target.precision)
    precision = target.precision or (profile.precision if profile else "fp32")
    foresee: dict[str, Foresee] = {}

    def planned(tried: Budget) -> Plan:
        default_step = max(ROUND_TO, profile.steps["out"]) if profile else ROUND_TO
        step = default_step if round_to is None else round_to
        if profile is None or tried.latency is None:
            refine = round_to is None and profile is None  # a step that was asked for, or is a device's own, is kept
            return planner.plan(tried, round_to=step, refine=refine, foresee=foresee)
        timely = Timely(planner, tried, profile, step, foresee)
        return timely.measured(say) if timely.is_here else timely.predicted()

    keep: Keep = planned
    if target.memory_of is not None and budget.peak_memory is not None:
        memory_model = devices.WAYS.get((target.memory_of, precision))
        if memory_model is not None:
            foresee["peak_memory"] = lambda structure: devices.Held(structure, memory_model).bytes
        keep = partial(keep_weighed, planner, scales=runtime_memory(planner, target.memory_of, precision), keep=keep)
    if target.size_of and budget.size is not None:
        keep = partial(keep_weighed, planner, scales=file_size(planner, target.size_of, precision), keep=keep)
    chosen_plan = keep(budget)
    if profile is not None and budget.latency is None:
        note_predicted_latency(chosen_plan, planner, profile)
    chosen_plan.timings = {**timings, **chosen_plan.timings}
    return chosen_plan


def _epoch(data: Data | None) -> int | None:
    """Examples of an epoch, where the data tell."""
    dataset = data.dataset if isinstance(data, DataLoader) else None
    return len(dataset) if isinstance(dataset, Sized) else None
