"""``rc.search``: width and bits of every channel by differentiable search, in one run that keeps a budget."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import nn

from reconvene.costs import Budget
from reconvene.criteria.base import Loss
from reconvene.criteria.batches import repeatable
from reconvene.criteria.gradients import loss_of
from reconvene.errors import ArgumentError, TrainingError
from reconvene.planning.arguments import PLAN_CHECKS, check_steps
from reconvene.planning.bits.planner import check_activation_bits, check_bits, refuse_options
from reconvene.planning.limits import LayerLimits
from reconvene.planning.options import Options
from reconvene.planning.search.run import Schedule, SearchRun
from reconvene.planning.target import DeviceLike, Target
from reconvene.structure.nesting import on_model
from reconvene.training.randomness import own_randomness
from reconvene.utils.arguments import checked
from reconvene.utils.module_tree import device_of
from reconvene.utils.progress import ProgressOption, listening


@on_model
@checked(**{name: PLAN_CHECKS[name] for name in ("model", "budget", "seed", "keep", "widths")}, epochs=check_steps)
def search(
    model: nn.Module,
    example_inputs: Any,
    budget: Budget,
    bits: Sequence[int] = (0, 2, 4, 8),
    *,
    train: Iterable[Any],
    epochs: int = 8,
    warmup: int = 0,
    finetune: int | None = None,
    lr: float = 0.02,
    loss: Loss | None = None,
    target: str | Path | None = None,
    device: DeviceLike | None = None,
    activation_bits: Sequence[int] = (8,),
    keep: Sequence[str] = (),
    widths: Mapping[str, float] = MappingProxyType({}),
    round_to: int | None = None,
    seed: int = 0,
    checkpoint: str | Path | None = None,
    resume: bool = True,
    progress: ProgressOption = None,
) -> nn.Module:
    """Train a copy of a network while it decides its widths and bits, and give the small one that keeps the budget.

    One run for one budget, in phases: ``warmup`` epochs in float; a search, which begins with the plan that ``rc.plan``
    makes in seconds, and in which choices are trained beside weights under an augmented Lagrangian of the limits; then
    the most likely decision within the limits is cut, and fine-tuned with its bits. Weights and what layers read are
    rounded as int8 runtimes do it: symmetric weights, an integer zero point for activations, to even.
    After 2407.01054, whose library sweeps a price by hand; see docs/bits.md.

    Args:
        model: the network, trained, or untrained with ``warmup``; only read.
        example_inputs: as for ``rc.groups``.
        budget: limits to keep, as for ``rc.plan`` with ``bits``.
        bits: what weights can have; with 0 channels can leave.
        train: batches ``(inputs, target)`` that can be iterated again, once an epoch. ``train.set_epoch(epoch)`` is
            called where there is such a method.
        epochs: of all phases together.
        warmup: epochs in float first, for a network that is not trained.
        finetune: epochs with frozen bits at the end; by default three of eight, and one at least.
        lr: of SGD with Nesterov momentum on the weights; it falls to zero by a cosine.
        loss: ``loss(output, target)``; cross entropy by default.
        target: the chip whose ``cycles`` or ``energy`` the budget limits, or a cost file.
        device: whose latency the budget limits, as for ``rc.plan``: by default this machine, in ONNX Runtime in int8.
            The plan that the search begins with is measured, and what it decided is measured again.
        activation_bits: what layers read can have, as for ``rc.plan``; the plan that the search begins with decides.
        keep: layers of which no channel leaves.
        widths: how many channels layers give, exactly.
        round_to: widths become multiples of this.
        seed: the same seed gives the same bytes; the caller's random state is as before afterwards.
        checkpoint: a folder. A run that was killed goes on from it when called again with the same arguments, to the
            same bytes; its log is ``train.jsonl`` there.
        resume: whether to go on from ``checkpoint``; otherwise it is started over.
        progress: as for ``rc.plan``; a callable hears of every step, with the phase, the loss and the use of the
            budget in words.

    Returns:
        the small network in eval mode, with its plan as ``reconvene_plan``; ``rc.export(small, ..., quantize="plan")``
        writes its file.

    Raises:
        BudgetError: the budget cannot be kept; the message names the floor, before anything is trained but the warm-up.
        ArgumentError: epochs that leave none to search, or bits that files cannot hold.
        TrainingError: the loss is not finite, there are no data, every parameter is frozen, the network is in half
            precision, or ``checkpoint`` is of another run.

    >>> import torch
    >>> import reconvene as rc
    >>> from torch import nn
    >>> model = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 2))
    >>> x = torch.randn(64, 4)
    >>> batches = list(zip(x.split(16), (x[:, 0] > 0).long().split(16)))
    >>> small = rc.search(model, x[:1], rc.Budget(size="150B"), train=batches, epochs=4, warmup=1)
    >>> small.reconvene_plan.costs["pruned"]["size"] <= 150
    True
    """
    if not isinstance(train, Iterable):
        raise TrainingError(f"train={train!r} is nothing to train on. Pass batches of (inputs, labels)")
    options = Options(
        data=repeatable(train, seed=seed),
        seed=seed,
        trained=True,
        limits=LayerLimits(tuple(keep), dict(widths)),
        loss=loss,
        round_to=round_to,
        target=Target(device=device, chip=target),
        bits=check_bits(bits),
        activation_bits=check_activation_bits(activation_bits),
    )
    refuse_options(options, budget)
    _check_precision(model)
    with own_randomness(device_of(model)), listening(progress):
        run = SearchRun(
            model,
            example_inputs,
            budget,
            options,
            divided(epochs, warmup, finetune, lr),
            loss=lambda output, target: loss_of(loss, output, target, user="search"),
            directory=None if checkpoint is None else Path(checkpoint),
        )
        return run.run(resume=resume)


def _check_precision(model: nn.Module) -> None:
    """Raise TrainingError for a network in half precision: choices, ranges and steps of rounding are in float32."""
    for name, parameter in model.named_parameters():
        if parameter.dtype in (torch.float16, torch.bfloat16):
            raise TrainingError(
                f"a search trains in float32, and {name} is in {parameter.dtype}. Try: rc.search(model.float(), ...), "
                "with example_inputs and train in float32"
            )


def divided(epochs: int, warmup: int, finetune: int | None, lr: float) -> Schedule:
    """The epochs of each phase. Raises ArgumentError where none is left to search."""
    last = max(1, round((epochs - warmup) * 3 / 8)) if finetune is None else finetune
    if warmup < 0 or last < 1 or epochs - warmup - last < 1:
        raise ArgumentError(
            f"epochs={epochs} with warmup={warmup} and finetune={last} leave {epochs - warmup - last} to search. Each "
            f"of search and finetune takes one at least. Try: epochs={max(warmup, 0) + max(last, 1) + 1}"
        )
    if not 0 < lr < float("inf"):
        raise ArgumentError(f"lr={lr} is not a learning rate. Try: lr=0.02")
    return Schedule(warmup, epochs - warmup - last, last, lr)
