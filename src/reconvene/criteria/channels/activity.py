"""Criteria of spiking networks: how active the channels of a trained network are on data. Targets are not read.

``activity`` is the mean absolute membrane potential of a channel over time steps, positions and examples (after
2406.01072, from its abstract; the interval that the paper measures over is not known to us: ours is all steps of every
example). ``spike_rate`` is the share of steps in which it spikes. The membrane is the one that the neuron holds after
a step. A group that several layers of neurons follow (a residual sum) has the mean over these layers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from reconvene.criteria.batches import Batches, argument_names
from reconvene.criteria.channels.base import ChannelCriterion, ChannelScores, ChannelSubject
from reconvene.criteria.gradients import explained
from reconvene.criteria.preserve_state import untouched
from reconvene.errors import CriterionError
from reconvene.structure import Structure, call
from reconvene.structure.neurons import NeuronKind, neurons, spikes_in
from reconvene.utils.arrays import Floats

Reading = Callable[[nn.Module, NeuronKind, Any], Tensor | None]
"""What is measured of a neuron that has just been called: a tensor ``[..., C, ...]``, at least zero."""


def activity(subject: ChannelSubject) -> ChannelScores:
    """Mean absolute membrane potential of every channel."""

    def membrane(module: nn.Module, kind: NeuronKind, output: Any) -> Tensor | None:
        value = kind.membrane_of(module)
        return None if value is None else value.abs()

    return _scored(subject, "activity", membrane)


def spike_rate(subject: ChannelSubject) -> ChannelScores:
    """Share of the steps in which a channel spikes, over positions and examples."""
    return _scored(subject, "spike_rate", lambda module, kind, output: spikes_in(output) != 0)


@dataclass
class NeuronChannels:
    """The channels of one group in what one layer of neurons gives: the axis from the end, and positions there.

    ``positions``: int64 ``[width, m]``.
    """

    group: int
    axis: int
    positions: NDArray[np.int64]
    total: Floats = field(init=False)
    count: float = 0.0

    def __post_init__(self) -> None:
        self.total = np.zeros(len(self.positions))

    def add(self, values: Tensor) -> None:
        """Add the values of one call ``[..., C, ...]``."""
        channels = values.detach().double().movedim(self.axis, 0).flatten(1)
        self.total += channels.sum(dim=1).cpu().numpy()[self.positions].sum(axis=1)
        self.count += channels.shape[1] * self.positions.shape[1]


@dataclass
class LayerCalls:
    """What each call of a layer gives in a pass, in order: at several places, channels of several groups.

    ``calls`` of the same channels share their ``NeuronChannels``.
    """

    path: str
    calls: list[list[NeuronChannels]] = field(default_factory=list)
    done: int = 0

    @property
    def channels(self) -> list[NeuronChannels]:
        """Those of all calls, each once."""
        return list({id(place): place for of_call in self.calls for place in of_call}.values())

    def begin_pass(self) -> None:
        """The next call is the first of a pass."""
        self.done = 0

    def next_call(self, user: str) -> list[NeuronChannels]:
        """The channels of the call that has just been made.

        Raises CriterionError where calls differ and there are more of them than in the recorded pass.
        """
        if all(of_call is self.calls[0] for of_call in self.calls):
            return self.calls[0]
        if self.done == len(self.calls):
            raise CriterionError(
                f"{user}: {self.path} is used behind several layers, and is called more often on the data than on the "
                f"example inputs ({self.done} times), so its calls cannot be told apart. Give example inputs of as "
                "many time steps as the data, or every layer neurons of its own"
            )
        self.done += 1
        return self.calls[self.done - 1]


def neuron_places(structure: Structure, names: set[str]) -> dict[str, LayerCalls]:
    """Where the channels of prunable groups are in what each call of a layer gives, by the paths of the layers."""
    places: dict[str, LayerCalls] = {}
    calls_in_eval_mode = sum(not op.training for op in structure.recording.ops)
    for number, path, _, outputs in structure.recording.exits:
        if path not in names or not outputs or number > calls_in_eval_mode:
            continue
        layer = places.setdefault(path, LayerCalls(path))
        given = _channels(structure, outputs[0])
        layer.calls.append(next((known for known in layer.calls if _are_same(known, given)), given))
    return places


def _channels(structure: Structure, output: Tensor) -> list[NeuronChannels]:
    """The channels of prunable groups in one tensor."""
    places = []
    for axis, dim in enumerate(structure.context.dims(output)):
        labels = dim[0][1] if len(dim) == 1 else None
        if labels is None:
            continue
        group, channel = structure.atom_group[labels], structure.atom_channel[labels]
        for g in np.unique(group[group >= 0]).tolist():
            at, width = np.flatnonzero(group == g), structure.prunable[g].width
            if len(at) % width == 0 and len(np.unique(channel[at])) == width:
                positions = at[np.argsort(channel[at], kind="stable")].reshape(width, -1)
                places.append(NeuronChannels(g, axis - output.ndim, positions))
    return places


def _are_same(one: list[NeuronChannels], other: list[NeuronChannels]) -> bool:
    return len(one) == len(other) and all(
        (a.group, a.axis) == (b.group, b.axis) and np.array_equal(a.positions, b.positions)
        for a, b in zip(one, other, strict=True)
    )


def _scored(subject: ChannelSubject, criterion: str, reading: Reading) -> ChannelScores:
    structure, user = subject.structure, f"criterion {criterion!r}"
    layers = neurons(subject.model)
    places = neuron_places(structure, set(layers))
    covered = {place.group for layer in places.values() for place in layer.channels}
    missing = [group.name for g, group in enumerate(structure.prunable) if g not in covered]
    if missing:
        raise CriterionError(
            f"{user}: no spiking neurons follow the channels of {missing[0]}"
            + (f" and of {len(missing) - 1} more groups" if len(missing) > 1 else "")
            + ". Neurons are those of snnTorch and SpikingJelly, and classes registered with "
            "reconvene.structure.neurons.neuron. Keep these layers whole (keep=), or use criterion='taylor'"
        )
    names = argument_names(subject.model, subject.example_inputs)
    data = Batches(subject.data, user=user, device=subject.device, seed=subject.seed, names=names, labelled=False)
    with untouched(subject.model, seed=subject.seed), torch.no_grad(), _read(layers, places, reading, user):
        for number, (inputs, _) in enumerate(data):
            with explained(user, number):
                for layer in places.values():
                    layer.begin_pass()
                call(subject.model, inputs)
    scores: list[list[Floats]] = [[] for _ in structure.prunable]
    for place in (place for layer in places.values() for place in layer.channels):
        scores[place.group].append(place.total / max(place.count, 1.0))
    return ChannelScores([np.mean(of_group, axis=0) for of_group in scores], data=data.describe())


@contextmanager
def _read(
    layers: dict[str, tuple[nn.Module, NeuronKind]],
    places: dict[str, LayerCalls],
    reading: Reading,
    user: str,
) -> Iterator[None]:
    """Within: every call of a neuron is read."""

    def see(name: str, kind: NeuronKind, module: nn.Module, args: Any, output: Any) -> None:
        value = reading(module, kind, output)
        if value is None:
            raise CriterionError(f"{user}: {name} holds no membrane in its attribute {kind.membrane!r}")
        for place in places[name].next_call(user) if name in places else ():
            place.add(value)

    with ExitStack() as stack:
        for name, (module, kind) in layers.items():
            if kind.keep_sequence and not getattr(module, kind.keep_sequence):
                setattr(module, kind.keep_sequence, True)
                stack.callback(setattr, module, kind.keep_sequence, False)
            stack.callback(module.register_forward_hook(partial(see, name, kind)).remove)
        yield


ACTIVITY_CRITERIA = (
    ChannelCriterion("activity", activity, needs="data"),
    ChannelCriterion("spike_rate", spike_rate, needs="data"),
)
