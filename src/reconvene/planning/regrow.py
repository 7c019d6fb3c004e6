"""``rc.prune_and_regrow``: channels leave and come back while a network trains, until the budget is kept."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from reconvene.costs import Budget
from reconvene.criteria.channels.activity import NeuronChannels, neuron_places
from reconvene.criteria.channels.slots import Roles
from reconvene.errors import ArgumentError, StructureError, TrainingError
from reconvene.planning.options import Options
from reconvene.planning.pruning import plan_by
from reconvene.structure import Keep, Structure, analyse, call
from reconvene.structure.copies import copy_model
from reconvene.structure.neurons import neurons
from reconvene.structure.replay import replay
from reconvene.structure.state import clear_state
from reconvene.surgery import Accounting, Plan, PlanRow, make_plan
from reconvene.surgery.ranges import to_text
from reconvene.surgery.verify import relative_error
from reconvene.utils.norms import is_norm
from reconvene.utils.progress import ProgressOption, listening, stage

AVERAGE = 0.9
"""How much of the moving averages of activity and of gradients stays in a step."""
UPDATES = 40
RAMP = (0.2, 0.6)
"""Shares of the steps between which the widths fall to those of the plan; behind them nothing changes."""
OPEN = 1e-6
"""Scale of masked channels in training: at exactly zero a ReLU has no derivative, and nothing would come back."""
EQUAL = 1e-4
"""Largest relative difference between the masked network and the cut one."""


def prune_and_regrow(
    model: nn.Module,
    example_inputs: Any,
    budget: Budget,
    train: Iterable[Any],
    *,
    epochs: int = 10,
    lr: float = 0.05,
    momentum: float = 0.9,
    weight_decay: float = 5e-4,
    loss: Callable[[Any, Any], Tensor] | None = None,
    regrow: float = 0.1,
    seed: int = 0,
    progress: ProgressOption = None,
) -> nn.Module:
    """Train a copy of a network while channels leave it and some come back, and cut what is left out.

    Widths are those of ``rc.plan`` for the budget. *Which* channels stay is decided in training (after 2406.01072; the
    schedule is our own): at 40 moments the least active channels of each group leave, and of those that had left
    before, the ones that the loss asks for most come back. Widths fall by a cubic ramp from 20 to 60 % of the steps;
    then nothing changes. Spiking networks are judged by their membranes, others by the loss that a channel makes
    (a first derivative). For a loop of your own, see ``Regrowth``.

    Args:
        model: the network, trained or not; only read.
        example_inputs: as for ``groups``.
        budget: what the result keeps.
        train: batches ``(inputs, target)`` that can be iterated again, once an epoch.
        epochs: how often.
        lr: of SGD with Nesterov momentum, which falls to zero by a cosine.
        momentum: of SGD.
        weight_decay: of SGD.
        loss: ``loss(output, target)``; cross entropy by default.
        regrow: share of a group's living channels that are exchanged at the first update; it falls to zero.
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
    batches = list(train) if iter(train) is train else train
    with torch.random.fork_rng(), listening(progress):
        torch.manual_seed(seed)
        growth = Regrowth(model, example_inputs, budget, regrow=regrow, seed=seed)
        network = growth.network.train()
        total = epochs * sum(1 for _ in batches)
        if not total:
            raise TrainingError("prune_and_regrow got no batches to train on, or epochs=0")
        optimizer = torch.optim.SGD(
            network.parameters(), lr, momentum, weight_decay=weight_decay, nesterov=momentum > 0
        )
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, total)
        with stage("pruning and regrowing", total, summary=False) as work:
            for _ in range(epochs):
                for inputs, target in batches:
                    clear_state(network)
                    value = (loss or F.cross_entropy)(call(network, inputs), target)
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


@dataclass(eq=False)
class _Gate:
    """A layer whose output is masked, and where the channels of groups are in it."""

    module: nn.Module
    places: list[NeuronChannels]


class Regrowth:
    """Masks on a copy of a model (``network``), for a training loop of your own.

    After every optimizer step call ``step(share)`` with the share of all steps that are done, and at the end ``cut()``.
    A mask is on the drive: behind the norm of a layer, scale and shift alike, or behind the layer where it has none. So
    neurons still answer to a masked drive of zero, and the loss has a derivative by the scale of a masked channel.

    Args:
        model: the network, only read.
        example_inputs: as for ``groups``.
        budget: what the result keeps.
        regrow: share of a group's living channels that are exchanged at the first update.
        seed: of the plan.
    """

    def __init__(self, model: nn.Module, example_inputs: Any, budget: Budget, *, regrow: float = 0.1, seed: int = 0):
        if not 0 <= regrow < 1:
            raise ArgumentError(f"regrow={regrow} must be a share: at least 0, less than 1")
        self.inputs, self.regrow = example_inputs, regrow
        self.goal = plan_by(model, example_inputs, budget, Options(trained=True, seed=seed))
        self.network = copy_model(model)
        self.structure = analyse(self.network, example_inputs)
        widths = {row.name: row.width for row in self.goal.rows}
        self.targets = [widths.get(group.name, group.width) for group in self.structure.prunable]
        self.alive = [np.ones(group.width, dtype=np.bool_) for group in self.structure.prunable]
        self.activity = [np.zeros(group.width) for group in self.structure.prunable]
        self.gradient = [np.zeros(group.width) for group in self.structure.prunable]
        self._updated = 0
        self._hooks = ExitStack()
        self._gates = [_Gate(self.network.get_submodule(p), found) for p, found in _gated(self.network, self.structure)]
        self._membranes = neuron_places(self.structure, set(neurons(self.network)))
        self._judged = {place.group for places in self._membranes.values() for place in places}
        self._new_activity = [np.zeros(group.width) for group in self.structure.prunable]
        self._new_gradient = [np.zeros(group.width) for group in self.structure.prunable]
        for gate in self._gates:
            self._hooks.callback(gate.module.register_forward_hook(partial(self._mask, gate)).remove)
        for name, (module, kind) in neurons(self.network).items():
            see = partial(self._see_membrane, name, kind)
            if kind.keep_sequence:
                setattr(module, kind.keep_sequence, True)
            self._hooks.callback(module.register_forward_hook(see).remove)

    def step(self, done: float) -> None:
        """Note what the step saw; where an update is due, channels leave and come back. ``done``: 0 to 1."""
        for g, group in enumerate(self.structure.prunable):
            for average, new in ((self.activity, self._new_activity), (self.gradient, self._new_gradient)):
                average[g] = AVERAGE * average[g] + (1 - AVERAGE) * np.abs(new[g])
                new[g] = np.zeros(group.width)
        start, end = RAMP
        due = int(min(done, end) * UPDATES + 1e-9)
        if due > self._updated and done >= start:
            along = min((min(done, end) - start) / (end - start), 1.0)
            for g in range(len(self.alive)):
                self._update(g, along)
        self._updated = max(due, self._updated)

    def _update(self, g: int, along: float) -> None:
        """Let channels of one group leave and come back; ``along``: 0 at the start of the ramp, 1 at its end."""
        alive, width = self.alive[g], len(self.alive[g])
        goal = self.targets[g] + round((width - self.targets[g]) * (1 - along) ** 3)
        before = alive.copy()
        back = min(int(self.regrow * (1 - along) * goal), int((~before).sum()), goal - 1)
        staying = max(min(goal, int(before.sum())) - back, 1)
        ranked = np.flatnonzero(before)[np.argsort(-self.activity[g][before], kind="stable")]
        alive[:] = False
        alive[ranked[:staying]] = True
        # What left in this update was active until now, and would win: only what had left before may come back.
        asked = np.flatnonzero(~before)[np.argsort(-self.gradient[g][~before], kind="stable")]
        alive[asked[: goal - staying]] = True

    def cut(self) -> nn.Module:
        """The network without the masked channels, in eval mode. Raises StructureError where outputs would change."""
        for g in range(len(self.alive)):
            if self.alive[g].sum() != self.targets[g]:  # the loop was shorter than its ramp
                self.regrow = 0.0
                self._update(g, 1.0)
        keep = [np.flatnonzero(alive).astype(np.int64) for alive in self.alive]
        self.network.eval()
        clear_state(self.network)
        with torch.no_grad():
            masked = call(self.network, self.inputs)
        self._hooks.close()
        small = self._plan(keep).apply(self.network).eval()
        with torch.no_grad():
            small_output = call(small, self.inputs)
        clear_state(small)
        if isinstance(masked, Tensor) and (error := relative_error(small_output, masked)) > EQUAL:
            raise StructureError(
                f"the cut network differs from the masked one by {error:.1e}: a channel whose drive is zero still "
                "gives something, as behind a sigmoid. Use rc.prune_iteratively for this network"
            )
        return small

    def _plan(self, keep: Keep) -> Plan:
        scalars = replay(self.network, self.inputs, self.structure, keep).scalars
        rows = [
            PlanRow(group.name, group.width, len(kept), to_text(kept), why="prune and regrow")
            for group, kept in zip(self.structure.prunable, keep, strict=True)
        ]
        goal = self.goal
        provenance = replace(goal.provenance, criterion="activity" if self._judged else "taylor", evaluator="")
        accounting = Accounting(goal.costs, spread=goal.spread)
        return make_plan(
            self.network, self.structure, keep, rows, scalars=scalars, provenance=provenance, accounting=accounting
        )

    def _mask(self, gate: _Gate, module: nn.Module, args: Any, output: Tensor) -> Tensor:
        """Mask the output of a layer, and note the gradient by the effective scale when it comes."""
        normed = _without_affine(module, args[0].detach(), output.detach(), gate.places[0].axis)
        for place in gate.places:
            mask = np.ones(output.shape[place.axis], dtype=np.float32)
            mask[place.positions[~self.alive[place.group]]] = 0.0
            shape = [1] * output.ndim
            shape[place.axis] = -1
            kept = torch.from_numpy(mask).to(output).view(shape)
            output = output * kept if not module.training else output * kept + (1 - kept) * OPEN * normed
        if output.requires_grad:
            hook: Any = output.register_hook  # without type information
            hook(partial(self._note_gradient, gate.places, normed, output.detach()))
        return output

    def _note_gradient(self, places: list[NeuronChannels], normed: Tensor, output: Tensor, gradient: Tensor) -> None:
        for place in places:
            axis = place.axis % output.ndim
            others = [dim for dim in range(output.ndim) if dim != axis]
            by_scale = (gradient * normed).double().sum(dim=others).cpu().numpy()
            self._new_gradient[place.group] += by_scale[place.positions].sum(axis=1)
            if place.group not in self._judged:
                by_mask = (gradient * output).double().sum(dim=others).cpu().numpy()
                self._new_activity[place.group] += by_mask[place.positions].sum(axis=1)

    def _see_membrane(self, name: str, kind: Any, module: nn.Module, args: Any, output: Any) -> None:
        membrane = kind.membrane_of(module)
        for place in self._membranes.get(name, ()) if membrane is not None else ():
            values = membrane.detach().abs().double().movedim(place.axis, 0).flatten(1).mean(dim=1).cpu().numpy()
            self._new_activity[place.group] += values[place.positions].mean(axis=1)


def _without_affine(module: nn.Module, given: Tensor, output: Tensor, axis: int) -> Tensor:
    """What the scale of a layer multiplies: the normalised input of a batch norm, else the output without its bias.

    ``axis``: of the channels; time may stand in front of the examples.
    """
    shape = [1] * output.ndim
    shape[axis] = -1
    if isinstance(module, _BatchNorm):
        mean, var = module.running_mean, module.running_var
        if module.training or mean is None or var is None:
            others = [dim for dim in range(given.ndim) if dim != axis % given.ndim]
            var, mean = torch.var_mean(given, dim=others, correction=0)
        return (given - mean.view(shape)) * (var.view(shape) + module.eps).rsqrt()
    bias = getattr(module, "bias", None)
    return output - bias.detach().view(shape) if isinstance(bias, Tensor) and bias.ndim == 1 else output


def _gated(model: nn.Module, structure: Structure) -> list[tuple[str, list[NeuronChannels]]]:
    """The layers to mask: norms, and layers with weights that no norm follows; with the channels that they give."""
    roles = Roles.of(model)
    owners: set[str] = set()
    for group in structure.prunable:
        slots = roles.slots(group, frozenset({"row", "scale"}))
        owners |= {slot.parameter.rpartition(".")[0] for slot in slots}
    exits = {path: (args, outs) for _, path, args, outs in structure.recording.exits if path in owners}
    normed = {id(t) for path, (args, _) in exits.items() if is_norm(model.get_submodule(path)) for t in args}
    gates = [path for path, (_, outs) in exits.items() if not any(id(out) in normed for out in outs)]
    places = neuron_places(structure, set(gates))
    covered = {place.group for of_layer in places.values() for place in of_layer}
    missing = [group.name for g, group in enumerate(structure.prunable) if g not in covered]
    if missing:
        raise StructureError(f"no layer gives the channels of {missing[0]} by itself, so they cannot be masked", {})
    return [(path, of_layer) for path, of_layer in places.items() if of_layer]
