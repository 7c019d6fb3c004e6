"""Tuning a network that was cut, on batches of any kind: the end of a schedule again, with the dense network to teach.

``reconvene.training.train`` does the same for data sets of ours, with augmentation and checkpoints; this is for data
and losses of the user's own.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reconvene.criteria.base import Loss
from reconvene.criteria.batches import Batches, LeftOver, argument_names, batch_count, repeatable
from reconvene.criteria.gradients import explained
from reconvene.errors import TrainingError
from reconvene.structure import tensors_in
from reconvene.structure.fresh import call_afresh
from reconvene.structure.state import clear_state
from reconvene.tasks.scores import soft_loss
from reconvene.training.optimizer import Nesterov
from reconvene.training.randomness import own_randomness, seed_step
from reconvene.utils.module_state import evaluating, kept_modes
from reconvene.utils.module_tree import device_of
from reconvene.utils.progress import stage


@dataclass(frozen=True)
class Tuning:
    """How a cut network is tuned: SGD with Nesterov momentum, whose rate falls from ``lr`` to zero by half a cosine.

    That is the end of the usual schedule again, from the weights as they are: learning-rate rewinding (Renda, Frankle
    and Carbin 2020, arXiv 2003.02389). With ``teacher`` t the loss is ``(1 - t) loss(output, target) + t imitation``,
    where ``imitation`` compares outputs with those of the dense network: ``T^2 KL(dense || cut)`` of scores softened by
    the ``temperature`` where the loss is cross entropy, else the mean squared difference over the mean square. Batches
    without targets are learned from the dense network alone.

    >>> import torch
    >>> import reconvene as rc
    >>> from torch import nn
    >>> model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16 * 36, 4))
    >>> data = [(torch.randn(8, 3, 8, 8), torch.randint(4, (8,))) for _ in range(4)]
    >>> small = rc.prune_iteratively(
    ...     model, data[0][0], rc.Budget(macs="2x"), steps=2, data=data, train=rc.Tuning(epochs=1, lr=0.01)
    ... )
    """

    epochs: int = 2
    """Rounds over the data after each cut; 0 tunes nothing."""
    lr: float = 0.02
    """Rate of the first step."""
    teacher: float = 0.5
    """Share of the dense network's outputs in the loss, in [0, 1]."""
    temperature: float = 4.0
    momentum: float = 0.9
    weight_decay: float = 5e-4
    clip: float | None = 2.0
    """Longest gradient (norm over all weights); None: no limit."""

    def check(self) -> None:
        """Raise TrainingError for values that cannot work, named with what would."""
        wrong = {
            "epochs must not be negative": self.epochs < 0,
            "lr must be above 0": not 0 < self.lr < math.inf,
            "teacher must be in [0, 1]": not 0 <= self.teacher <= 1,
            "temperature must be above 0": not 0 < self.temperature < math.inf,
            "momentum must be in (0, 1)": not 0 < self.momentum < 1,
            "weight_decay must not be negative": not self.weight_decay >= 0,
            "clip must be above 0": self.clip is not None and not self.clip > 0,
        }
        if broken := [rule for rule, is_broken in wrong.items() if is_broken]:
            raise TrainingError(f"cannot tune with {self}: {'; '.join(broken)}.")


def tune(
    network: nn.Module,
    data: Iterable[Any],
    example_inputs: Any = None,
    *,
    teacher: nn.Module,
    loss: Loss | None = None,
    tuning: Tuning = Tuning(),  # frozen
    seed: int = 0,
) -> None:
    """Train a cut network on, in place; its modes and the random state are as before afterwards.

    A single example that is left over behind larger batches is not learned from where norms take statistics of the
    batch: it may have no variance.

    Args:
        network: what is tuned.
        data: batches as ``Batches`` takes them, which can be iterated again; those without targets, too.
        example_inputs: say which entries of batches that are mappings the model takes; else its signature does.
        teacher: the dense network, only read.
        loss: ``loss(output, target)``; cross entropy by default.
        tuning: the recipe.
        seed: of dropout and of what the data draw, different in every epoch.

    Raises:
        TrainingError: the loss is not finite, or there are no data to learn from.
    """
    tuning.check()
    data = repeatable(data, seed=seed)
    device = device_of(network)
    optimizer = Nesterov(network, momentum=tuning.momentum, weight_decay=tuning.weight_decay)

    def batches(epoch: int) -> Batches:
        names = argument_names(network, example_inputs)
        user, error = "tuning", TrainingError
        return Batches(data, user=user, device=device, seed=seed + epoch, names=names, labelled=False, error=error)

    with own_randomness(device), kept_modes(network), evaluating(teacher):
        network.train()
        known = batch_count(data)
        length = sum(1 for _ in batches(0)) if known is None else known
        total = length * tuning.epochs
        left_over = LeftOver(network)
        passes = chain.from_iterable(batches(epoch) for epoch in range(tuning.epochs))
        with stage("tuning", total, summary=False) as work:
            for done, (inputs, target) in enumerate(passes):
                if left_over.is_next(inputs):
                    work.advance()
                    continue
                seed_step(device, seed, done)
                with explained("tuning", done, TrainingError):
                    value = _objective(network, teacher, inputs, target, loss, tuning)
                    value.backward()  # type: ignore[no-untyped-call]
                norm = optimizer.clip(tuning.clip)
                if not math.isfinite(float(value.detach()) + norm):
                    raise TrainingError(
                        f"the loss became {float(value.detach()):.3g}, its gradient {norm:.3g}, at step {done + 1} of "
                        f"{total}. Try a smaller lr (now {tuning.lr:g})."
                    )
                optimizer.step(0.5 * tuning.lr * (1 + math.cos(math.pi * done / total)))
                work.advance(detail=f"loss {float(value.detach()):.3f}")
    clear_state(network)


def _objective(
    network: nn.Module, teacher: nn.Module, inputs: Any, target: Any, loss: Loss | None, tuning: Tuning
) -> Tensor:
    """The loss of one batch."""
    output = call_afresh(network, inputs)
    if loss is None and not isinstance(target, Tensor | Mapping | None):
        raise TrainingError(
            f"tuning: targets are {type(target).__name__}, and the default loss (cross entropy) takes a tensor. Give a "
            "loss of your own: loss="
        )
    without_target = target is None or (loss is None and isinstance(target, Mapping))
    share = 1.0 if without_target else tuning.teacher
    value: Any = 0.0
    if share < 1:
        value = (1 - share) * (loss or F.cross_entropy)(output, target)
    if share > 0:
        with torch.no_grad():
            dense_output = call_afresh(teacher, inputs)
        scores = loss is None and not without_target
        value = value + share * _imitation(output, dense_output, tuning.temperature if scores else None)
    assert isinstance(value, Tensor)
    return value


def _imitation(output: Any, dense_output: Any, temperature: float | None) -> Tensor:
    """How far outputs are from the dense network's: of scores at a ``temperature``, else of numbers."""
    if temperature is not None and isinstance(output, Tensor):
        return soft_loss(output, dense_output, temperature)
    pairs = zip(tensors_in(output), tensors_in(dense_output), strict=True)
    real = [(ours, dense) for ours, dense in pairs if ours.is_floating_point()]
    return torch.stack(
        [(ours - dense).square().mean() / dense.square().mean().clamp_min(1e-12) for ours, dense in real]
    ).mean()
