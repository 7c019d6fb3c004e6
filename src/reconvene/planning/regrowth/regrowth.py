"""Masks under which channels leave a network and come back while it trains: for ``prune_and_regrow`` and own loops."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from reconvene.costs import Budget
from reconvene.criteria.channels.activity import LayerCalls, NeuronChannels, neuron_places
from reconvene.criteria.channels.slots import Roles
from reconvene.errors import ArgumentError, StructureError
from reconvene.planning.options import Options
from reconvene.planning.pruning import plan_by
from reconvene.structure import Keep, Structure, analyse, call
from reconvene.structure.copies import copy_model
from reconvene.structure.neurons import neurons
from reconvene.structure.replay import replay
from reconvene.structure.state import clear_state, known_state, remember_state
from reconvene.surgery import Accounting, Plan, PlanRow, make_plan
from reconvene.surgery.call_comparison import relative_error
from reconvene.surgery.ranges import to_text
from reconvene.utils.norms import is_norm

AVERAGE = 0.9
"""How much of the moving averages of activity and of gradients stays in a step."""
_UPDATES = 40
RAMP = (0.2, 0.6)
"""Shares of the steps between which the widths fall to those of the plan; behind them nothing changes."""
OPEN = 1e-6
"""Scale of masked channels in training: at exactly zero a ReLU has no derivative, and nothing would come back."""
EQUAL = 1e-4
"""Largest relative difference between the masked network and the cut one."""


@dataclass(eq=False)
class _Gate:
    """A layer whose output is masked, and where the channels of groups are in it."""

    module: nn.Module
    places: list[NeuronChannels]


class Regrowth:
    """Masks on a copy of a model (``network``), for a training loop of your own.

    After every optimizer step call ``step(share)`` with the share of all steps that are done, and at the end ``cut()``.
    A mask is on the input current: behind the norm of a layer (scale and shift alike), or behind the layer where it has
    no norm. So neurons still answer to a masked current of zero, and the loss has a derivative by the scale of a masked
    channel.
    ``state_dict`` and ``load_state_dict`` let an interrupted loop go on.

    Args:
        model: the network, only read.
        example_inputs: as for ``groups``.
        budget: what the result keeps; or a plan, whose widths it gets.
        regrow: share of a group's living channels that are exchanged at the first update; it falls to zero.
        ramp: shares of the steps between which the widths fall; behind them nothing changes.
        seed: of the plan.
        data: batches of inputs, or ``(inputs, target)``, for a budget on a cost on data (``synops``).
        in_place: mask the model itself instead of a copy.

    Raises:
        ArgumentError: a share that is none.
        BudgetError: the budget cannot be kept.
        StructureError: no layer gives the channels of a group by itself.

    >>> import torch
    >>> import reconvene as rc
    >>> from torch import nn
    >>> model = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 2))
    >>> x, y = torch.randn(64, 4), torch.randint(0, 2, (64,))
    >>> growth = rc.Regrowth(model, x, rc.Budget(params="2x"))
    >>> optimizer = torch.optim.SGD(growth.network.parameters(), 0.1)
    >>> for step in range(40):
    ...     optimizer.zero_grad()
    ...     nn.functional.cross_entropy(growth.network(x), y).backward()
    ...     optimizer.step()
    ...     growth.step((step + 1) / 40)
    >>> growth.cut()[0].out_features < 16
    True
    """

    def __init__(
        self,
        model: nn.Module,
        example_inputs: Any,
        budget: Budget | Plan,
        *,
        regrow: float = 0.1,
        ramp: tuple[float, float] = RAMP,
        seed: int = 0,
        data: Iterable[Any] | None = None,
        in_place: bool = False,
    ) -> None:
        check_shares(regrow, ramp)
        self.inputs, self.regrow, self.ramp = example_inputs, regrow, ramp
        options = Options(trained=True, criterion="group_l2", seed=seed, data=data)  # data says costs alone
        self.goal = budget if isinstance(budget, Plan) else plan_by(model, example_inputs, budget, options)
        self.network = model if in_place else copy_model(model)
        self.structure = _structure(self.network, example_inputs)
        groups = self.structure.prunable
        widths = {row.name: row.width for row in self.goal.rows}
        if missing := [name for name in widths if name not in {group.name for group in groups}]:
            raise StructureError(
                f"the plan cuts {missing[0]}, which is not a group of this network. Make the plan for it"
            )
        self.targets = [widths.get(group.name, group.width) for group in groups]
        self.alive = [np.ones(group.width, dtype=np.bool_) for group in groups]
        self.activity, self.gradient, self._new_activity, self._new_gradient = (
            [np.zeros(group.width) for group in groups] for _ in range(4)
        )
        self.seen = [np.zeros(group.width, dtype=np.int64) for group in groups]
        self._updated = 0
        self._hooks = ExitStack()
        self._membranes = neuron_places(self.structure, set(neurons(self.network)))
        self._judged = {place.group for layer in self._membranes.values() for place in layer.channels}
        self._hook()

    def _hook(self) -> None:
        """Mask the layers, and watch the neurons, until ``cut``."""
        for path, places in _gated(self.network, self.structure):
            gate = _Gate(self.network.get_submodule(path), places)
            self._hooks.callback(gate.module.register_forward_hook(partial(self._mask, gate)).remove)
        for layer in self._membranes.values():
            begin = partial(_begin_pass, layer)
            self._hooks.callback(self.network.register_forward_pre_hook(begin).remove)
        for name, (module, kind) in neurons(self.network).items():
            if kind.keep_sequence and not getattr(module, kind.keep_sequence):
                setattr(module, kind.keep_sequence, True)
                self._hooks.callback(setattr, module, kind.keep_sequence, False)
            see = partial(self._see_membrane, name, kind)
            self._hooks.callback(module.register_forward_hook(see).remove)

    def state_dict(self) -> dict[str, Tensor]:
        """Masks and moving averages; the weights are in the state of ``network``."""
        state: dict[str, Tensor] = {}
        for name, arrays in self._arrays.items():
            state |= {f"{name}.{g}": torch.from_numpy(array.copy()) for g, array in enumerate(arrays)}
        return {**state, "updated": torch.tensor(self._updated)}

    @property
    def _arrays(self) -> dict[str, Sequence[NDArray[Any]]]:
        return {"alive": self.alive, "seen": self.seen, "activity": self.activity, "gradient": self.gradient}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on where ``state_dict`` was called. Raises ArgumentError for the state of another network or plan."""
        expected = self.state_dict()
        shapes, target_shapes = ({name: tuple(t.shape) for name, t in of.items()} for of in (state, expected))
        if shapes != target_shapes:
            raise ArgumentError(f"the state has {shapes}, and masks of this network have {target_shapes}")
        for name, arrays in self._arrays.items():
            for g, array in enumerate(arrays):
                array[:] = state[f"{name}.{g}"].cpu().numpy()
        self._updated = int(state["updated"])

    def step(self, done: float) -> None:
        """Note what the step saw; where an update is due, channels leave and come back. ``done``: 0 to 1."""
        for g, group in enumerate(self.structure.prunable):
            self.seen[g] += 1
            share = np.maximum(1 - AVERAGE, 1 / self.seen[g])  # a plain mean while there are few steps
            for average, new in ((self.activity, self._new_activity), (self.gradient, self._new_gradient)):
                average[g] += share * (np.abs(new[g]) - average[g])
                new[g] = np.zeros(group.width)
        start, end = self.ramp
        due = int(min(done, end) * _UPDATES + 1e-9)
        if due > self._updated and done >= start:
            along = min((min(done, end) - start) / (end - start), 1.0)
            for g in range(len(self.alive)):
                self._update(g, along, self.regrow)
        self._updated = max(due, self._updated)

    def _update(self, g: int, along: float, regrow: float) -> None:
        """Let channels of a group leave and a share come back; ``along``: 0 where the ramp starts, 1 at its end."""
        alive, width = self.alive[g], len(self.alive[g])
        goal = self.targets[g] + round((width - self.targets[g]) * (1 - along) ** 3)
        before = alive.copy()
        back = min(int(regrow * (1 - along) * goal), int((~before).sum()), goal - 1)
        staying = max(min(goal, int(before.sum())) - back, 1)
        ranked = np.flatnonzero(before)[np.argsort(-self.activity[g][before], kind="stable")]
        alive[:] = False
        alive[ranked[:staying]] = True
        # What left in this update was active until now, and would win: only what had left before may come back.
        candidates = np.flatnonzero(~before)[np.argsort(-self.gradient[g][~before], kind="stable")]
        alive[candidates[: goal - staying]] = True
        # A channel that has just come back was silent before: with that in its average it would be the next to leave.
        self.seen[g][alive != before] = 0

    def cut(self) -> nn.Module:
        """The network without the masked channels, in eval mode. Raises StructureError where outputs would change."""
        for g in range(len(self.alive)):
            if self.alive[g].sum() != self.targets[g]:  # the loop was shorter than its ramp
                self._update(g, 1.0, regrow=0.0)
        keep = [np.flatnonzero(alive).astype(np.int64) for alive in self.alive]
        self.network.eval().to(memory_format=torch.contiguous_format)
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
                f"the cut network differs from the masked one by {error:.1e}: a channel with input zero still "
                "has an output, as behind a sigmoid. Use rc.prune_iteratively for this network"
            )
        return small

    def _plan(self, keep: Keep) -> Plan:
        scalars = replay(self.network, self.inputs, self.structure, keep).scalars
        rows = [
            PlanRow(group.name, group.width, len(channels), to_text(channels), why="prune and regrow")
            for group, channels in zip(self.structure.prunable, keep, strict=True)
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
            channels = torch.from_numpy(mask).to(output).view(shape)
            output = output * channels if not module.training else output * channels + (1 - channels) * OPEN * normed
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
        if not torch.is_grad_enabled():  # an evaluation between two steps is no part of them
            return
        membrane = kind.membrane_of(module)
        if membrane is None or name not in self._membranes:
            return
        for place in self._membranes[name].next_call("Regrowth"):
            values = membrane.detach().abs().double().movedim(place.axis, 0).flatten(1).mean(dim=1).cpu().numpy()
            self._new_activity[place.group] += values[place.positions].mean(axis=1)


def _begin_pass(layer: LayerCalls, module: nn.Module, args: Any) -> None:
    layer.begin_pass()


def _structure(network: nn.Module, example_inputs: Any) -> Structure:
    """The groups of a network in whatever memory layout: other operators run in channels-last."""
    layouts = {parameter.is_contiguous() for parameter in network.parameters()}
    if layouts <= {True}:
        return analyse(network, example_inputs)
    contiguous = copy_model(network).to(memory_format=torch.contiguous_format)
    structure = analyse(contiguous, example_inputs)
    remember_state(network, known_state(contiguous))
    return structure


def check_shares(regrow: float, ramp: tuple[float, float]) -> None:
    """Raise ArgumentError for shares that are none."""
    if not 0 <= regrow < 1:
        raise ArgumentError(f"regrow={regrow} must be a share: at least 0, less than 1")
    if len(ramp) != 2 or not 0 <= ramp[0] < ramp[1] <= 1:
        raise ArgumentError(f"ramp={ramp} must be two shares of the steps, the second larger: (0.2, 0.6)")


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
    roles = Roles.of(model, structure)
    owners: set[str] = set()
    for group in structure.prunable:
        slots = roles.slots(group, frozenset({"row", "scale"}))
        owners |= {slot.parameter.rpartition(".")[0] for slot in slots}
    exits = {path: (args, outs) for _, path, args, outs in structure.recording.exits if path in owners}
    normed = {id(t) for path, (args, _) in exits.items() if is_norm(model.get_submodule(path)) for t in args}
    gates = [path for path, (_, outs) in exits.items() if not any(id(out) in normed for out in outs)]
    places = neuron_places(structure, set(gates))
    covered = {place.group for layer in places.values() for place in layer.channels}
    missing = [group.name for g, group in enumerate(structure.prunable) if g not in covered]
    if missing:
        raise StructureError(f"no layer gives the channels of {missing[0]} by itself, so they cannot be masked", {})
    return [(path, layer.channels) for path, layer in places.items() if layer.channels]
