"""``analyse``: record, label, solve, build the groups, and try them out before anyone relies on them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from reconvene.structure.build import build_balances, build_groups, pinned_groups
from reconvene.structure.capture import record_forward
from reconvene.structure.equations import Attribute, solve_equations
from reconvene.structure.groups import Balance, Group
from reconvene.structure.labels import Dim, Vector
from reconvene.structure.nesting import on_model
from reconvene.structure.ratios import DistinctSize, Ratio
from reconvene.structure.recording import Op, Recording
from reconvene.structure.restore import paused_collector
from reconvene.structure.rules import Context, apply_rule
from reconvene.structure.solve import solve_channels
from reconvene.utils.notes import Note

Keep = list[NDArray[np.int64]]
"""Kept channels of every prunable group, ascending, in ``Structure.prunable`` order."""


@dataclass(eq=False)
class Structure:
    """What is coupled with what in one model. Two structures are the same only if they are one object."""

    prunable: tuple[Group, ...]
    balances: tuple[Balance, ...]
    recording: Recording
    context: Context
    root: Vector
    atom_group: NDArray[np.int64]
    """Prunable group of every atom, -1 for atoms that never leave."""
    atom_channel: NDArray[np.int64]
    owned: dict[Attribute, Ratio | DistinctSize] = field(default_factory=dict)
    """Attributes that Python keeps as sizes, as functions of widths."""
    repairs: list[Note] = field(default_factory=list)
    """What the recording and the trial say of the network, above all what had to be pinned."""
    replays: dict[tuple[int, ...], Any] = field(default_factory=dict)
    """What replay found, by widths."""
    _pinned: tuple[Group, ...] | None = None

    @property
    def groups(self) -> tuple[Group, ...]:
        """All groups, the prunable ones first."""
        if self._pinned is None:
            self._pinned = pinned_groups(self.recording, self.context)
        return (*self.prunable, *self._pinned)

    @property
    def widths(self) -> NDArray[np.int64]:
        """Dense width of every prunable group, int64 ``[groups]``."""
        return np.array([group.width for group in self.prunable], dtype=np.int64)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Dense shape of every parameter, by its first name; buffers are not among them."""
        parameters = self.recording.parameters.items()
        return {name: tuple(twin.shape) for name, twin in parameters if isinstance(twin, nn.Parameter)}

    @property
    def unknown(self) -> list[str]:
        """Operators without a rule: everything they touch is pinned."""
        return self.context.unknown

    def kept_atoms(self, keep: Keep) -> NDArray[np.bool_]:
        """Which atoms stay, bool ``[atoms]``."""
        mask = np.ones(len(self.root), dtype=np.bool_)
        if self.prunable:
            start = np.concatenate([[0], np.cumsum(self.widths)])
            flags = np.zeros(start[-1], dtype=np.bool_)
            flags[np.concatenate([channels + first for channels, first in zip(keep, start[:-1], strict=True)])] = True
            prunable_atoms = self.atom_group >= 0
            mask[prunable_atoms] = flags[start[self.atom_group[prunable_atoms]] + self.atom_channel[prunable_atoms]]
        return mask

    def eval_ops(self) -> list[Op]:
        """The calls of the eval pass, in order."""
        return [op for op in self.recording.ops if not op.training]

    def eval_outputs(self) -> list[Tensor]:
        """What the eval pass gives; a training pass is recorded behind it where a parameter is not read in eval."""
        trained = {id(out) for op in self.recording.ops if op.training for out in op.outs}
        return [tensor for tensor in self.recording.outputs if id(tensor) not in trained]


@on_model
def analyse(model: nn.Module, example_inputs: Any, *, trial: bool = True) -> Structure:
    """Find the groups of ``model``: channels that can only leave together, proved by a trial at half width.

    The model is recorded once on the meta device (nothing is computed), so it costs milliseconds and no memory, and the
    model is left exactly as it was. The trial records the half-width model and compares every call and shape with
    what the labels predict; a call that disagrees is pinned, noted in ``Structure.repairs``, and everything is solved
    again.

    Args:
        model: any ``nn.Module``; not TorchScript, compiled or quantised.
        example_inputs: a tensor, a tuple or list of positional arguments, or a mapping of keyword arguments.
        trial: whether to prove the groups; without, they are good for counting costs only.

    Raises:
        ModelError: the model does not run on these inputs, or cannot be pruned by nature.
    """
    from reconvene.structure.replay import prove_by_trial

    with paused_collector():
        recording = record_forward(model, example_inputs)
        context = label(recording)
        structure = assemble(recording, context, list(recording.notes))
        return prove_by_trial(model, example_inputs, structure) if trial else structure


def label(recording: Recording) -> Context:
    """Read the recorded calls in order and note what is coupled."""
    context = Context(known_cuts=recording.sizes.known_cuts, chunks=recording.sizes.chunks)
    for name, tensor in recording.parameters.items():
        fixed = not (tensor.is_floating_point() or tensor.is_complex())
        dims: list[Dim] = [
            () if size == 1 else ((size, None if fixed else context.labels.fresh(size)),) for size in tensor.shape
        ]
        context.set(tensor, dims)
        context.weights.add(id(tensor))
        if tensor.is_complex():  # criteria and rectification know real numbers only
            for dim in dims:
                context.labels.pin(dim, f"{name} holds complex numbers")
    reshaping = [(n, op) for n, op in enumerate(recording.ops) if torch.Tag.inplace_view in op.func.tags]
    context.last_view = {id(op.outs[0]): number for number, op in reshaping}
    read: set[int] = set()
    for index, op in enumerate(recording.ops):
        context.index = index
        apply_rule(context, op)
        read.update(id(a) for a in op.args)
        for a in op.args:
            if isinstance(a, (list, tuple)):
                read.update(id(b) for b in a)
    for tensor in recording.outputs:
        for dim in context.dims(tensor):
            context.labels.pin(dim, "network output")
    for name, tensor in recording.parameters.items():
        if id(tensor) not in read:
            for dim in context.dims(tensor):
                context.labels.pin(dim, f"{name} is never read in a forward pass")
    return context


def assemble(recording: Recording, context: Context, repairs: list[Note] | None = None) -> Structure:
    """Solve the labels, build the groups, and hold their widths to the sizes that Python keeps."""
    while True:
        root = solve_channels(context.labels)
        groups, atom_group, atom_channel = build_groups(recording, context, root)
        equations = solve_equations(context, recording.sizes, groups, (root, atom_group, atom_channel))
        open_dims = [
            (dim, reason)
            for dim, reason in equations.pinned
            if any(labels is not None and root[labels].any() for _, labels in dim)
        ]
        balances = build_balances(context, groups, atom_group, equations.balances)
        stuck = _only_dense(balances)
        if equations.unions:
            context.labels.unions += equations.unions
            continue
        if not open_dims and not stuck:
            break
        for dim, reason in open_dims:
            context.labels.pin(dim, reason)
        for number, reason in stuck.items():
            context.labels.pins.append((np.flatnonzero(atom_group == number), reason))
    structure = Structure(groups, balances, recording, context, root, atom_group, atom_channel)
    structure.owned, structure.repairs = {**equations.distinct, **equations.owned}, repairs or []
    return structure


def _only_dense(balances: tuple[Balance, ...]) -> dict[int, str]:
    """Groups that a balance holds at their dense width, since its other side is a fixed number."""
    return {
        group: f"{balance.reason}, and the other size is fixed"
        for balance in balances
        if any(not piece for piece in balance.pieces)
        for piece in balance.pieces
        for group in piece
    }
