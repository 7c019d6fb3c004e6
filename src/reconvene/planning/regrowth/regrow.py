"""``rc.prune_and_regrow``: channels leave and come back while a network trains, until the budget is kept."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from reconvene.costs import Budget
from reconvene.criteria.batches import LeftOver, repeatable
from reconvene.criteria.gradients import loss_of
from reconvene.errors import TrainingError
from reconvene.planning.regrowth.regrowth import RAMP, Regrowth
from reconvene.structure import call
from reconvene.structure.restore import accelerators, kept_random_state, seed_random_state
from reconvene.structure.state import clear_state
from reconvene.surgery import Plan
from reconvene.training.optimizer import trainable
from reconvene.utils.arguments import check_model, checked
from reconvene.utils.module_tree import device_of
from reconvene.utils.progress import ProgressOption, listening, stage


@checked(model=check_model)
def prune_and_regrow(
    model: nn.Module,
    example_inputs: Any,
    budget: Budget | Plan,
    train: Iterable[Any],
    *,
    epochs: int = 10,
    lr: float = 0.05,
    momentum: float = 0.9,
    weight_decay: float = 5e-4,
    loss: Callable[[Any, Any], Tensor] | None = None,
    regrow: float = 0.1,
    ramp: tuple[float, float] = RAMP,
    seed: int = 0,
    progress: ProgressOption = None,
) -> nn.Module:
    """Train a copy of a network while channels leave it and some come back, and cut what is left out.

    Widths are those of ``rc.plan`` for the budget. *Which* channels stay is decided in training (after 2406.01072; the
    schedule is our own): at 40 moments the least active channels of each group leave, and of those that had left
    before, the ones that the loss asks for most come back. Widths fall by a cubic ramp, by default from 20 to
    60 % of the steps; then nothing changes. Spiking networks are judged by their membranes, others by the loss that a
    channel makes (a first derivative). For a loop of your own, see ``Regrowth``.

    Args:
        model: the network, trained or not; only read.
        example_inputs: as for ``groups``.
        budget: what the result keeps; or a plan, whose widths it gets. Costs on data (``synops``) are on ``train``.
        train: batches ``(inputs, target)`` that can be iterated again, once an epoch.
        epochs: how often.
        lr: of SGD with Nesterov momentum, which falls to zero by a cosine.
        momentum: of SGD.
        weight_decay: of SGD.
        loss: ``loss(output, target)``; cross entropy by default.
        regrow: share of a group's living channels that are exchanged at the first update; it falls to zero.
        ramp: shares of the steps between which the widths fall; behind them nothing changes.
        seed: of the random state in training. The caller's random state is as before afterwards.
        progress: as for ``rc.plan``.

    Returns:
        the smaller, trained network in eval mode, with its plan as ``reconvene_plan``.

    Raises:
        BudgetError: the budget cannot be kept.
        StructureError: a masked channel still gives something (behind a sigmoid), so that a cut would change outputs.
        TrainingError: the loss is not finite, or there are no data.

    >>> import torch
    >>> import reconvene as rc
    >>> from torch import nn
    >>> model = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 2))
    >>> x = torch.randn(64, 4)
    >>> small = rc.prune_and_regrow(model, x, rc.Budget(params="2x"), train=[(x, (x[:, 0] > 0).long())])
    >>> small[0].out_features < 16
    True
    """
    batches = repeatable(train, seed=seed)
    device = device_of(model)
    with kept_random_state(accelerators(model)), listening(progress):
        seed_random_state(seed, device)
        data = batches if isinstance(budget, Budget) and budget.needs_data else None
        growth = Regrowth(model, example_inputs, budget, regrow=regrow, ramp=ramp, seed=seed, data=data)
        network = growth.network.train()
        trainable(network)
        total = epochs * sum(1 for _ in batches)
        if not total:
            raise TrainingError("prune_and_regrow got no batches to train on, or epochs=0")
        optimizer = torch.optim.SGD(
            network.parameters(), lr, momentum, weight_decay=weight_decay, nesterov=momentum > 0
        )
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, total)
        with stage("pruning and regrowing", total, summary=False) as work:
            left_over = LeftOver(network)
            for _ in range(epochs):
                for inputs, target in batches:
                    if left_over.is_next(inputs):
                        work.advance()
                        continue
                    clear_state(network)
                    value = loss_of(loss, call(network, inputs), target, user="prune_and_regrow")
                    if not torch.isfinite(value.detach()):
                        raise TrainingError(
                            f"the loss became {float(value.detach())} at step {work.done}. Try a smaller lr"
                        )
                    optimizer.zero_grad()
                    value.backward()  # type: ignore[no-untyped-call]
                    optimizer.step()
                    schedule.step()
                    work.advance(detail=f"loss {float(value.detach()):.3f}")
                    growth.step(work.done / total)
        return growth.cut()
