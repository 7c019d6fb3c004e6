"""Norm statistics that lag behind the weights, measured and recalibrated.

A batch norm in eval mode uses running statistics: after ``n`` steps with momentum ``m`` the initial ones still weigh
``(1 - m)^n``, and those of the last ``1 / m`` steps most of the rest. With the small momentum of some published
networks (0.01 in MobileNetV3 and EfficientNet, 0.0003 in MNASNet, made for hundreds of thousands of steps) a short run
trains a good network that answers at chance in eval mode. Recalibration takes the statistics anew from training batches
(PreciseBN: Wu and Johnson 2021, arXiv 2105.07576, section 3).
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from reconvene.data.batches import Batch
from reconvene.structure.fresh import call_afresh
from reconvene.tasks import Task
from reconvene.training.evaluate import outputs_in_float32
from reconvene.training.parallel import World
from reconvene.utils.module_state import kept_modes

USUAL_MOMENTUM = 0.1
"""torch's default: statistics of about the last ten steps, over which the weights hardly move."""
INITIAL_SHARE = 0.01
"""How much the initial statistics may still weigh."""
IMAGES = 2048
"""Training images, over all processes, that statistics are taken from and both kinds are compared on."""
GAIN = 0.1
"""Statistics lag where new ones lower the loss by more than this share of it, and notably for the task."""


@dataclass(frozen=True)
class Recalibration:
    """What recalibration did: mean loss in eval mode on the same training images, before and after it.

    ``loss_before`` is None where it was not finite.
    """

    layers: int
    images: int
    loss_before: float | None
    loss_after: float
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return asdict(self)


def lagging_norms(model: nn.Module, *, steps: int) -> list[_NormBase]:
    """Norms whose running statistics may lag after ``steps`` steps of training.

    Those without a momentum (they average over the whole run), with one below torch's default of 0.1, or whose initial
    statistics still weigh more than 1 %.
    """
    norms = [module for module in model.modules() if isinstance(module, _NormBase) and module.running_mean is not None]
    return [norm for norm in norms if norm.momentum is None or _lags(float(norm.momentum), steps)]


def refresh_statistics(
    model: nn.Module, task: Task, batches: Iterable[Batch], *, steps: int, batch_size: int, world: World
) -> Recalibration | None:
    """Take the statistics of suspect norms anew where they lag. None, and not a bit changed, where they do not.

    Statistics are cumulative averages over ``batches``, with all other modules in eval mode (no dropout). They lag if
    the loss on these batches with the new ones is lower by more than a tenth, and by more than is notable for the task.

    Args:
        model: its modes are restored.
        task: whose loss it is.
        batches: of this process, float32 images and targets as in training; the first 2,048 images of all processes.
        steps: done in training so far.
        batch_size: of all processes together.
        world: the statistics are averaged over its processes.
    """
    norms = lagging_norms(model, steps=steps)
    if not norms:
        return None
    began = time.monotonic()
    samples = list(islice(batches, -(-IMAGES // batch_size)))
    before = [{name: buffer.clone() for name, buffer in norm.named_buffers(recurse=False)} for norm in norms]
    with kept_modes(model), torch.no_grad():
        model.eval()
        loss_before = _loss(model, task, samples, world)
        _renew(model, norms, samples, world)
        loss_after = _loss(model, task, samples, world)
        if loss_after >= min(loss_before - task.notable_loss, loss_before * (1 - GAIN)):
            for norm, buffers in zip(norms, before, strict=True):
                for name, value in buffers.items():
                    getattr(norm, name).copy_(value)
            return None
    before_or_none = loss_before if math.isfinite(loss_before) else None
    seconds = round(time.monotonic() - began, 3)
    return Recalibration(len(norms), len(samples) * batch_size, before_or_none, loss_after, seconds)


def _lags(momentum: float, steps: int) -> bool:
    return momentum < USUAL_MOMENTUM or (1 - momentum) ** steps > INITIAL_SHARE


def _renew(model: nn.Module, norms: Sequence[_NormBase], batches: Sequence[Batch], world: World) -> None:
    momenta = [norm.momentum for norm in norms]
    counters = [norm.num_batches_tracked for norm in norms]
    counts = [None if counter is None else counter.clone() for counter in counters]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # torch then averages over all batches alike
        norm.train()
    try:
        for images, _ in batches:
            call_afresh(model, images)
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
            norm.eval()
    for momentum, counter, count in zip(momenta, counters, counts, strict=True):
        # Without a momentum the count decides how much the next batch weighs, so it stays the new one.
        if momentum is not None and counter is not None and count is not None:
            counter.copy_(count)
    statistics = [buffer for norm in norms for buffer in (norm.running_mean, norm.running_var) if buffer is not None]
    world.average(statistics)


def _loss(model: nn.Module, task: Task, batches: Sequence[Batch], world: World) -> float:
    """Mean loss over the batches of all processes; infinite where it is no number."""
    sums = torch.zeros(2, dtype=torch.float64, device=batches[0][1].device)
    for images, targets in batches:
        losses: Tensor = task.losses(outputs_in_float32(call_afresh(model, images)), targets).double()
        sums += torch.stack([losses.sum(), torch.ones_like(losses).sum()])
    total, count = world.total(sums).tolist()
    loss = total / count
    return loss if math.isfinite(loss) else math.inf
