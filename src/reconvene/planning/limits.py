"""Layers that stay as they are, and widths that were asked for: names and patterns become pins and fixed widths."""

from __future__ import annotations

import difflib
import math
from collections.abc import Collection, Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from types import MappingProxyType

from torch import nn

from reconvene.criteria.channels.slots import ROWS, Roles
from reconvene.errors import ArgumentError, UnknownNameError
from reconvene.structure import Structure
from reconvene.structure.analysis import assemble
from reconvene.structure.labels import Reason


@dataclass(frozen=True)
class LayerLimits:
    """What was asked of single layers, by name or pattern (``stem.*``); a name stands for all layers in it.

    ``keep``: layers of which nothing changes, neither what they give nor what they read. ``widths``: how many channels
    layers give: a share in (0, 1] or a count, exactly. ``groups``: widths of groups by their names, for the steps of an
    iterative pruning.

    Raises ``ArgumentError`` for a width that is neither.
    """

    keep: tuple[str, ...] = ()
    widths: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))
    groups: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))

    def __post_init__(self) -> None:
        for name, width in self.widths.items():
            number = isinstance(width, int | float) and not isinstance(width, bool)
            # 1.0 is the whole layer and 1 is one channel: a float is a share, and a count is a whole number.
            if not number or not (0 < width <= 1 if isinstance(width, float) else width >= 1):
                raise ArgumentError(
                    f"widths[{name!r}]={width!r} is neither a share of the channels, above 0 and at most 1.0, nor a "
                    "whole number of them"
                )

    def hold(self, model: nn.Module, structure: Structure) -> Structure:
        """The structure in which nothing of the kept layers can leave.

        Raises ``UnknownNameError`` for names that no layer has.
        """
        if not self.keep:
            return structure
        names = {id(tensor): name for name, tensor in (*model.named_parameters(), *model.named_buffers())}
        for pattern in self.keep:
            for layer, module in matching(model, pattern, "layer to keep"):
                reason = Reason("the layer", layer, "stays as it is, as asked (keep)")
                for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False)):
                    twin = structure.recording.parameters[names[id(tensor)]]
                    for dim in structure.context.tensors[id(twin)]:
                        structure.context.labels.pin(dim, reason)
        return assemble(structure.recording, structure.context, structure.repairs)

    def fixed(self, model: nn.Module, structure: Structure) -> dict[int, int]:
        """The width of every group (its place in ``structure.prunable``) for which one was asked.

        Raises:
            UnknownNameError: no layer has this name.
            ArgumentError: the layers' channels cannot leave, are fewer, leave several at a time that do not divide the
                number, or belong to a group with another width.
        """
        roles, fixed, asked_by = Roles.of(model, structure), dict[int, int](), dict[int, str]()
        names = {id(parameter): name for name, parameter in model.named_parameters()}
        fixed |= {g: self.groups[group.name] for g, group in enumerate(structure.prunable) if group.name in self.groups}
        for pattern, asked in self.widths.items():
            layers = matching(model, pattern, "layer of a width")
            parameters = {names[id(p)] for _, module in layers for p in module.parameters(recurse=False)}
            groups = list(_computed(roles, structure, parameters))
            if not groups and not (_is_share(asked) and asked == 1):  # what cannot leave stays whole
                raise ArgumentError(f"widths: no channels of {pattern!r} can leave{_reason(structure, parameters)}")
            for g, times in groups:
                group = structure.prunable[g]
                width = max(1, round(asked * group.width)) if _is_share(asked) else math.ceil(asked / times)
                if width > group.width:
                    raise ArgumentError(
                        f"widths[{pattern!r}]={asked!r}: {group.name} has {group.width * times} channels"
                    )
                if not _is_share(asked) and width * times != asked:
                    near = [count for count in (asked // times * times, width * times) if count]
                    raise ArgumentError(
                        f"widths[{pattern!r}]={asked!r}: channels of {group.name} leave {times} at a time. Try: "
                        f"{' or '.join(f'{count:g}' for count in near)}"
                    )
                if fixed.setdefault(g, width) != width:
                    raise ArgumentError(
                        f"widths: {asked_by[g]!r} asks for {fixed[g]} channels of {group.name}, and {pattern!r} for "
                        f"{width}. They are the same channels: give one of the two"
                    )
                asked_by[g] = pattern
        return fixed


def matching(model: nn.Module, pattern: str, kind: str) -> list[tuple[str, nn.Module]]:
    """The layers that a name or pattern stands for, and all in them, that hold tensors.

    Raises ``UnknownNameError`` where there are none; it lists the parts of the model, and the nearest names.
    """
    layers = {
        name: module
        for name, module in model.named_modules(remove_duplicate=False)
        if any(True for _ in (*module.parameters(recurse=False), *module.buffers(recurse=False)))
    }
    chosen = [
        (name, module)
        for name, module in layers.items()
        if any(fnmatchcase(part, pattern) for part in _and_parents(name))
    ]
    if not chosen:
        known = sorted({part for name in layers for part in _and_parents(name)})
        nearest = difflib.get_close_matches(pattern, known, n=3)
        raise UnknownNameError(kind, pattern, [name for name, _ in model.named_children()], nearest=nearest)
    return chosen


def _and_parents(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[:count]) for count in range(1, len(parts) + 1)]


def _is_share(asked: float) -> bool:
    return isinstance(asked, float) and asked <= 1


def _computed(roles: Roles, structure: Structure, parameters: Collection[str]) -> Iterator[tuple[int, int]]:
    """The groups that these parameters compute, and how many of their rows a channel is."""
    for g, group in enumerate(structure.prunable):
        rows = [slot for slot in roles.slots(group, ROWS) if slot.parameter in parameters]
        if rows:
            yield g, rows[0].index.shape[1]


def _reason(structure: Structure, parameters: AbstractSet[str]) -> str:
    pinned = (group.pinned for group in structure.groups if not parameters.isdisjoint(group.parameters))
    reason = next((reason for reason in pinned if reason), None)
    return f": {reason}" if reason else ""
