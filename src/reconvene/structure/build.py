"""From solved labels to groups: channels with the same signature of (parameter, dimension) form one group."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from reconvene.structure.components import components
from reconvene.structure.groups import Balance, Group, Slot
from reconvene.structure.labels import Vector
from reconvene.structure.recording import Recording
from reconvene.structure.rules.context import Context


def build_groups(
    recording: Recording, context: Context, root: Vector
) -> tuple[tuple[Group, ...], NDArray[np.int64], NDArray[np.int64]]:
    """The prunable groups, and for every atom its group (-1: none) and its channel in that group."""
    owned = np.zeros(len(root), dtype=np.bool_)
    for _, _, atoms in parameter_atoms(recording, context):
        owned[root[atoms]] = True
    owned[0] = False
    atom_group, atom_channel, sizes = _by_signature(context, root, owned)
    slots: list[list[Slot]] = [[] for _ in sizes]
    for name, dim, atoms in parameter_atoms(recording, context):
        _add_slots(slots, name, dim, atom_group[atoms], atom_channel[atoms], sizes)
    names = _unique_names([_name_of(recording, group_slots) for group_slots in slots])
    groups = tuple(Group(n, s, tuple(g)) for n, s, g in zip(names, sizes, slots, strict=True))
    return groups, atom_group, atom_channel


def parameter_atoms(recording: Recording, context: Context) -> Iterator[tuple[str, int, Vector]]:
    """``(parameter, dimension, atoms)`` for every labelled dimension of every parameter and buffer."""
    for name, tensor in recording.parameters.items():
        for number, dim in enumerate(context.tensors[id(tensor)]):
            if dim and dim[0][1] is not None and len(dim[0][1]):  # no register token at all is a parameter, too
                yield name, number, dim[0][1]


def _by_signature(
    context: Context, root: Vector, owned: NDArray[np.bool_]
) -> tuple[NDArray[np.int64], NDArray[np.int64], list[int]]:
    """Number the channels that share a signature, in order of their first atom.

    The signature counts how often a channel stands in every labelled vector of the model, so all channels of a group
    fill the same number of positions everywhere and sizes are exact in the number of kept channels.
    """
    vectors = _all_vectors(context)
    marks = np.random.default_rng(0).integers(1, 2**63, size=len(vectors), dtype=np.uint64)
    signature = np.zeros(len(root), dtype=np.uint64)
    if vectors:
        np.add.at(signature, root[np.concatenate(vectors)], np.repeat(marks, [len(vector) for vector in vectors]))
    channels = np.flatnonzero(owned)
    if not len(channels):
        return np.full(len(root), -1, dtype=np.int64), np.zeros(len(root), dtype=np.int64), []
    group_of_channel = _numbered(signature[channels])
    sizes = np.bincount(group_of_channel)
    order = np.argsort(group_of_channel, kind="stable")
    position = np.empty(len(channels), dtype=np.int64)
    position[order] = np.arange(len(channels)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    by_root = np.full(len(root), -1, dtype=np.int64)
    at_root = np.zeros(len(root), dtype=np.int64)
    by_root[channels], at_root[channels] = group_of_channel, position
    return by_root[root], at_root[root], [int(s) for s in sizes]


def _numbered(signature: NDArray[np.uint64]) -> NDArray[np.int64]:
    """The number of every value: 0, 1, ... in order of first appearance."""
    order = np.argsort(signature, kind="stable")
    begins = np.concatenate([[True], np.diff(signature[order]) != 0])
    first = order[begins]  # a stable sort keeps the first of equal values in front
    rank = np.empty(len(first), dtype=np.int64)
    rank[np.argsort(first)] = np.arange(len(first))
    number = np.empty(len(signature), dtype=np.int64)
    number[order] = rank[np.cumsum(begins) - 1]
    return number


def _all_vectors(context: Context) -> list[Vector]:
    """Every labelled vector once, in a fixed order: dimensions of tensors, then pieces."""
    visited: dict[int, Vector] = {}
    for dims in context.tensors.values():
        for dim in dims:
            for _, labels in dim:
                if labels is not None:
                    visited.setdefault(id(labels), labels)
    for pieces, _ in context.labels.pieces:
        for piece in pieces:
            visited.setdefault(id(piece), piece)
    return list(visited.values())


def _add_slots(
    slots: list[list[Slot]],
    name: str,
    dim: int,
    group: NDArray[np.int64],
    channel: NDArray[np.int64],
    sizes: list[int],
) -> None:
    first = int(group[0])
    if (group == first).all():  # nearly always: one group in its own order
        if first >= 0 and len(group) == sizes[first] and (channel == np.arange(len(group))).all():
            slots[first].append(Slot(name, dim, np.arange(len(group)).reshape(-1, 1)))
            return
        if first < 0:
            return
    for number in np.flatnonzero(np.bincount(group[group >= 0])).tolist():
        positions = np.flatnonzero(group == number)
        positions = positions[np.argsort(channel[positions], kind="stable")]
        slots[number].append(Slot(name, dim, positions.reshape(sizes[number], -1)))


def _name_of(recording: Recording, slots: list[Slot]) -> str:
    """The layer that produces the channels: the first weight touched in its output dimension, else the first slot."""
    producers = [s for s in slots if s.dim == 0 and recording.parameters[s.parameter].ndim >= 2]
    return (producers or slots)[0].parameter.rpartition(".")[0] or (producers or slots)[0].parameter


def _unique_names(names: list[str]) -> list[str]:
    uses: dict[str, int] = {}
    out = []
    for name in names:
        uses[name] = uses.get(name, 0) + 1
        out.append(name if uses[name] == 1 else f"{name}#{uses[name]}")
    return out


def build_balances(
    context: Context, groups: tuple[Group, ...], atom_group: NDArray[np.int64], extra: Sequence[Balance] = ()
) -> tuple[Balance, ...]:
    """Equal pieces as constraints on widths, and ``extra`` constraints; those that always hold are left out."""
    out: dict[object, Balance] = {}
    for balance in (*(_piece_balance(p, r, groups, atom_group) for p, r in context.labels.pieces), *extra):
        if all(c == balance.pieces[0] for c in balance.pieces) and len(set(balance.fixed)) == 1:
            continue
        key = (tuple(tuple(sorted(c.items())) for c in balance.pieces), balance.fixed)
        out.setdefault(key, balance)
    return tuple(out.values())


def _piece_balance(
    pieces: list[Vector], reason: str, groups: tuple[Group, ...], atom_group: NDArray[np.int64]
) -> Balance:
    counts: list[dict[int, int]] = []
    fixed: list[int] = []
    for piece in pieces:
        amounts = np.bincount(atom_group[piece] + 1, minlength=1)
        counts.append({int(n): int(amounts[n + 1]) // groups[n].width for n in np.flatnonzero(amounts[1:])})
        fixed.append(int(amounts[0]))
    return Balance(tuple(counts), tuple(fixed), reason)


def pinned_groups(recording: Recording, context: Context) -> tuple[Group, ...]:
    """What can never leave, grouped like the rest, each with the call that pinned it.

    Only dimensions that would be channels are listed: kernels and other sizes nobody expects to prune are left out.
    """
    labels = context.labels
    pins = [(vector, reason) for vector, reason in labels.pins if reason]
    free = components(labels.count, labels.unions, [])
    silent = np.zeros(labels.count, dtype=np.bool_)
    for vector, reason in labels.pins:
        if not reason:
            silent[free[vector]] = True
    reasons = np.full(labels.count, -1, dtype=np.int64)
    for number in range(len(pins) - 1, -1, -1):
        reasons[free[pins[number][0]]] = number
    owned = np.zeros(labels.count, dtype=np.bool_)
    for _, _, atoms in parameter_atoms(recording, context):
        owned[free[atoms]] = True
    owned &= (reasons >= 0) & ~silent
    owned[0] = False
    atom_group, atom_channel, sizes = _by_signature(context, free, owned)
    slots: list[list[Slot]] = [[] for _ in sizes]
    why = [""] * len(sizes)
    for name, dim, atoms in parameter_atoms(recording, context):
        if (atom_group[atoms] < 0).all():
            continue
        _add_slots(slots, name, dim, atom_group[atoms], atom_channel[atoms], sizes)
        for number in np.flatnonzero(np.bincount(atom_group[atoms][atom_group[atoms] >= 0])).tolist():
            if not why[number]:
                why[number] = pins[reasons[free[atoms[atom_group[atoms] == number][0]]]][1]
    names = _unique_names([_name_of(recording, s) for s in slots])
    return tuple(Group(n, s, tuple(g), w) for n, s, g, w in zip(names, sizes, slots, why, strict=True))
