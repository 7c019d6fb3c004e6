"""``rc.simplify``: remove the channels that say nothing, exactly."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from reconvene.criteria.channels.slots import Roles
from reconvene.errors import MODEL_REFUSALS
from reconvene.planning.assemble import check_finite
from reconvene.planning.constant_inputs import (
    PROBES,
    ZERO,
    constant_inputs,
    outputs_of,
    ranges_of,
    varied_batch,
)
from reconvene.structure import Group, Keep, Slot, Structure, analyse, map_tensors
from reconvene.structure.copies import copy_model
from reconvene.structure.nesting import on_model
from reconvene.structure.pruned_sizes import settle
from reconvene.structure.replay import replay
from reconvene.surgery import Plan, PlanRow, make_plan
from reconvene.surgery.call_comparison import relative_error
from reconvene.surgery.ranges import to_text
from reconvene.utils.arguments import check_model, checked
from reconvene.utils.module_state import afresh_in_eval
from reconvene.utils.progress import ProgressOption, listening, stage, track

# Inputs on which the smaller network must give the same outputs.
_DRAWS = 4
EXACT = 1e-6
"""Largest relative difference of an output that a removal may make."""
EXACT_AS_IT_IS = 1e-4
"""The same, where the model does not run in float64."""


@checked(model=check_model)
@on_model
def simplify(model: nn.Module, example_inputs: Any, *, progress: ProgressOption = None) -> nn.Module:
    """A new module without the channels that are dead or constant; it gives the same outputs.

    A channel is dead where zero weights or zero scales of norms leave nothing of it, or a constant, whatever the inputs
    are, or where only zero weights read it: training with decay or with a penalty on scales ends so. (A channel that
    is silent on some data only, as behind a ReLU, stays.) A constant other than zero moves into the biases of the
    layers that read it; where it cannot, as at a padded border or without a bias, the channel stays. No data are
    needed, and nothing is estimated: outputs are compared, in float64, before the result is given.

    Args:
        model: a trained model, only read.
        example_inputs: as for ``groups``.
        progress: as for ``rc.plan``.

    Returns:
        the smaller module, with its plan as ``reconvene_plan``; a copy where nothing is dead.

    Raises:
        ModelError: the model does not run on these inputs, or cannot be pruned by nature.
        CriterionError: weights are not finite.

    >>> import torch
    >>> import reconvene as rc
    >>> from torch import nn
    >>> model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 8, 3))
    >>> x = torch.randn(1, 3, 16, 16)
    >>> with torch.no_grad():
    ...     _ = model[0].weight[4].zero_(), model[0].bias[4].zero_()
    >>> rc.simplify(model, x)[0]
    Conv2d(3, 15, kernel_size=(3, 3), stride=(1, 1))
    """
    check_finite(model)
    with listening(progress), stage("simplifying", summary=False):
        return _simplified(model, example_inputs)


def _simplified(model: nn.Module, example_inputs: Any) -> nn.Module:
    structure = analyse(model, example_inputs)
    remover = _ChannelRemover(model, structure, Roles.of(model, structure), example_inputs)
    return remover.network(remover.exact([_left(remover.dead[group.name]) for group in structure.prunable]))


def silent_channels(model: nn.Module, structure: Structure, example_inputs: Any) -> list[NDArray[np.bool_]]:
    """The channels of every prunable group that carry nothing, whatever the inputs are, ``[width]``.

    They are zero, or only zero weights read them; one that is another constant says something to the bias of its
    readers and is not among them. Networks without a slice of zeros are looked at no further than that. Of others the
    outputs are compared with and without the channels, since not only layers with weights may read them.
    """
    roles = Roles.of(model, structure)
    if not any(_has_zeros(roles, group) for group in structure.prunable):
        return [np.zeros(group.width, dtype=np.bool_) for group in structure.prunable]
    remover = _ChannelRemover(model, structure, roles, example_inputs)
    silent = [remover.silent(group) for group in structure.prunable]
    if not any(channels.any() for channels in silent):
        return silent
    keep = remover.exact([_left(channels) for channels in silent])
    leaves = [len(kept) < group.width for kept, group in zip(keep, structure.prunable, strict=True)]
    return [channels & leaving for channels, leaving in zip(silent, leaves, strict=True)]


def _has_zeros(roles: Roles, group: Group) -> bool:
    """Whether a channel has nothing but zeros in one of its places."""
    for slot in roles.slots(group, frozenset({"row", "column", "scale"})):
        weight = roles.parameters[slot.parameter].abs()
        largest = weight.movedim(slot.dim, 0).flatten(1).amax(dim=1) if weight.ndim > 1 else weight
        if bool((largest[slot.index.reshape(-1)] <= ZERO * largest.max()).any()):
            return True
    return False


@dataclass(frozen=True, eq=False)
class _Reader:
    """A layer that reads channels of a group; ``slot.index``: the columns of its weight that do, by channel.

    ``owner``: the layer, where it is given just what its ``weight`` reads; None of others, such as recurrent ones.
    """

    owner: str | None
    slot: Slot

    def columns(self, module: nn.Module, channels: NDArray[np.int64]) -> Tensor:
        """The weights that read these channels, summed over a kernel: ``[rows, channels * m]``, float64."""
        weight = module.get_parameter("weight").detach().double()
        index = torch.from_numpy(self.slot.index[channels].reshape(-1)).to(weight.device)
        columns = weight.index_select(self.slot.dim, index).movedim(self.slot.dim, 1)
        return columns.flatten(2).sum(dim=2) if columns.ndim > 2 else columns

    def places(self, module: nn.Module, channels: NDArray[np.int64], size: int) -> NDArray[np.int64]:
        """Where the channels are among the ``size`` inputs: a grouped weight reads the same ones of each of its groups.

        ``[groups, channels, m]``.
        """
        groups = _groups(module)
        return np.stack([self.slot.index[channels] + n * (size // groups) for n in range(groups)])


class _ChannelRemover:
    """Networks without some of the dead channels of a model; ``dead``: by group, which channels are, ``[width]``."""

    def __init__(self, model: nn.Module, structure: Structure, roles: Roles, inputs: Any) -> None:
        self.model, self.structure, self.inputs = model, structure, inputs
        self.readers = {
            group.name: [
                _Reader(_plain_layer(model, slot.parameter), slot) for slot in roles.slots(group, frozenset({"column"}))
            ]
            for group in structure.prunable
        }
        owners = {r.owner for readers in self.readers.values() for r in readers if r.owner is not None}
        constant = constant_inputs(model, owners, inputs)
        self.values = {owner: low for owner, (low, _) in ranges_of(model, owners, inputs, PROBES).items()}
        self.dead = {group.name: self._dead(group, constant) for group in structure.prunable}

    def _dead(self, group: Group, constant: Mapping[str, NDArray[np.bool_]]) -> NDArray[np.bool_]:
        channels = np.arange(group.width)
        dead = np.full(group.width, bool(self.readers[group.name]))
        for reader in self.readers[group.name]:
            unread = self._unread(reader)
            if reader.owner is not None and len(inputs := constant[reader.owner]):
                module = self.model.get_submodule(reader.owner)
                unread = unread | inputs[reader.places(module, channels, len(inputs))].all(axis=(0, 2))
            dead &= unread
        return dead

    def _unread(self, reader: _Reader) -> NDArray[np.bool_]:
        """The channels of a group that only zero weights of a layer read."""
        weight = self.model.get_parameter(reader.slot.parameter).detach().abs()
        largest = weight.movedim(reader.slot.dim, 0).flatten(1).amax(dim=1).double().cpu().numpy()
        unread: NDArray[np.bool_] = (largest[reader.slot.index] <= ZERO * largest.max(initial=0.0)).all(axis=1)
        return unread

    def silent(self, group: Group) -> NDArray[np.bool_]:
        """The dead channels that leave nothing behind: their constant is zero, or nobody reads it."""
        channels = np.arange(group.width)
        silent = self.dead[group.name].copy()
        for reader in self.readers[group.name]:
            values, unread = self._values(reader), self._unread(reader)
            if reader.owner is not None and values is not None and len(values):
                places = reader.places(self.model.get_submodule(reader.owner), channels, len(values))
                silent &= unread | (values[torch.from_numpy(places)].abs() <= ZERO).numpy().all(axis=(0, 2))
            else:
                silent &= unread
        return silent

    def _values(self, reader: _Reader) -> Tensor | None:
        """The least value that a layer is given of every channel; None where nobody can look."""
        return None if reader.owner is None else self.values[reader.owner]

    def exact(self, keep: Keep) -> Keep:
        """What must stay beside these channels so that outputs do not change: all of a group that is in the way."""
        keep = self.settled(keep)
        if self.is_exact(keep):
            return keep
        accepted: Keep = [np.arange(group.width, dtype=np.int64) for group in self.structure.prunable]
        for g, kept in track(enumerate(keep), "groups", total=len(keep)):
            trial = self.settled([*accepted[:g], kept, *accepted[g + 1 :]])
            if len(kept) < len(accepted[g]) and self.is_exact(trial):
                accepted = trial
        return accepted

    def settled(self, keep: Keep) -> Keep:
        """With as many dead channels again as pieces that must stay equal need."""
        counts = np.array([len(kept) for kept in keep], dtype=np.int64)
        widths = settle(self.structure.balances, counts, self.structure.widths)
        spare = [np.setdiff1d(np.arange(g.width), kept) for g, kept in zip(self.structure.prunable, keep, strict=True)]
        return [
            np.sort(np.concatenate([kept, others[: width - len(kept)]])).astype(np.int64)
            for kept, others, width in zip(keep, spare, widths, strict=True)
        ]

    def network(self, keep: Keep) -> nn.Module:
        """The model with these channels; constants that left are in the biases."""
        folded = copy_model(self.model)
        for group, kept in zip(self.structure.prunable, keep, strict=True):
            gone = np.setdiff1d(np.arange(group.width), kept)
            for reader in self.readers[group.name] if len(gone) else ():
                if reader.owner is not None:
                    self._fold(folded.get_submodule(reader.owner), reader, gone)
        small = self._plan(keep).apply(folded)
        for module, original in zip(small.modules(), self.model.modules(), strict=True):
            module.training = original.training
        return small

    def _fold(self, module: nn.Module, reader: _Reader, gone: NDArray[np.int64]) -> None:
        """Add what channels that leave give to the bias of a layer that reads them.

        Where that is not the same everywhere, or there is no bias, the comparison says so, and the channels stay.
        """
        bias, values = getattr(module, "bias", None), self._values(reader)
        if not isinstance(bias, Tensor) or values is None or isinstance(module, _ConvTransposeNd):
            return
        constants = values[torch.from_numpy(reader.places(module, gone, len(values)))].flatten(1)
        columns = reader.columns(module, gone)
        by_group = columns.reshape(len(constants), -1, columns.shape[1])
        with torch.no_grad():
            bias.add_(torch.einsum("grc,gc->gr", by_group, constants.to(by_group)).reshape(-1).to(bias))

    def is_exact(self, keep: Keep) -> bool:
        """Whether the network with these channels runs and gives the same outputs."""
        if replay(self.model, self.inputs, self.structure, keep).failure is not None:
            return False
        try:
            return self._gives_the_same(keep, EXACT, double=True)
        except MODEL_REFUSALS:  # a model that names a precision itself does not run in another one
            return self._gives_the_same(keep, EXACT_AS_IT_IS, double=False)

    def _gives_the_same(self, keep: Keep, limit: float, *, double: bool) -> bool:
        """Whether outputs with these channels and with all of them are the same, in float64 or as the model is."""
        networks = [
            afresh_in_eval(network.double() if double else network)
            for network in (self.network(keep), copy_model(self.model))
        ]
        for seed in range(_DRAWS):
            inputs = varied_batch(self.inputs, seed) if seed else self.inputs
            batch = map_tensors(lambda t: t.double() if double and t.is_floating_point() else t, inputs)
            actual, expected = (outputs_of(network, batch, seed) for network in networks)
            if any(relative_error(small, dense) > limit for small, dense in zip(actual, expected, strict=True)):
                return False
        return True

    def _plan(self, keep: Keep) -> Plan:
        scalars = replay(self.model, self.inputs, self.structure, keep).scalars
        rows = [
            PlanRow(
                group.name,
                group.width,
                len(kept),
                to_text(kept),
                why="" if len(kept) == group.width else "dead channels removed",
            )
            for group, kept in zip(self.structure.prunable, keep, strict=True)
        ]
        return make_plan(self.model, self.structure, keep, rows, scalars=scalars)


def _left(dead: NDArray[np.bool_]) -> NDArray[np.int64]:
    """The channels that are not dead; the first one, where all are."""
    kept = np.flatnonzero(~dead).astype(np.int64)
    return kept if len(kept) else np.arange(1, dtype=np.int64)


def _plain_layer(model: nn.Module, parameter: str) -> str | None:
    """The convolution or linear layer whose ``weight`` this is, by name; None where it is something else."""
    owner, _, name = parameter.rpartition(".")
    return owner if name == "weight" and isinstance(model.get_submodule(owner), _ConvNd | nn.Linear) else None


def _groups(module: nn.Module) -> int:
    return int(module.groups) if isinstance(module, _ConvNd) and not isinstance(module, _ConvTransposeNd) else 1
