"""What the structure step hands on: groups of channels that can only leave together."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from reconvene.utils.bar_chart import Bar, BarChart
from reconvene.utils.frames import Frame, Plottable
from reconvene.utils.tables import Cell


@dataclass(frozen=True, eq=False)
class Slot:
    """Where a group touches one dimension of one parameter or buffer.

    ``index[c]`` holds the positions along ``dim`` of ``parameter`` that belong to channel ``c``: int64 ``[width, m]``.
    """

    parameter: str
    dim: int
    index: NDArray[np.int64] = field(repr=False)


@dataclass(frozen=True, eq=False)
class Group:
    """Channels that share a signature: channel ``c`` leaves from every slot at once, or from none.

    ``pinned`` is ``None`` for a group that can be pruned, else the reason why nothing of it may leave.
    """

    name: str
    width: int
    slots: tuple[Slot, ...]
    pinned: str | None = None

    def __str__(self) -> str:
        state = "prunable" if self.prunable else f"pinned: {self.pinned}"
        return f"{self.name}: {self.width} channels of {', '.join(self.parameters)}; {state}"

    @property
    def prunable(self) -> bool:
        """Whether channels may leave."""
        return self.pinned is None

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names of the parameters and buffers this group touches, in model order, without repeats."""
        return tuple(dict.fromkeys(slot.parameter for slot in self.slots))


class Groups(list[Group], Plottable):
    """The groups of a model, prunable ones first: a list that notebooks show as a table."""

    def frame(self) -> Frame:
        """The table: a row a group."""
        rows: list[list[Cell]] = [
            [group.name, group.width, ", ".join(group.parameters), group.pinned or ""] for group in self
        ]
        return Frame(("group", "width", "parameters", "kept at full width because"), rows)

    def __str__(self) -> str:
        return str(self.frame())

    def __repr__(self) -> str:
        prunable = sum(group.prunable for group in self)
        return f"Groups({prunable} prunable, {len(self) - prunable} pinned)"

    def plot(self) -> BarChart:
        """A bar a group, as long as it is wide."""
        notes = ["" if group.prunable else ", kept at full width" for group in self]
        bars = [Bar(group.name, group.width, f"{group.width:,}{text}") for group, text in zip(self, notes, strict=True)]
        return BarChart("channels by group", bars)


@dataclass(frozen=True)
class Balance:
    """Pieces of one tensor that Python cuts equally: each must keep the same number of channels.

    Each piece maps the index of a prunable group (in ``Structure.prunable`` order) to how many positions of the piece
    one kept channel of it fills; ``fixed`` counts the positions of each piece that never leave. For all pieces ``p``:
    ``fixed[p] + sum(pieces[p][g] * kept[g])`` is the same number.
    """

    pieces: tuple[dict[int, int], ...]
    fixed: tuple[int, ...]
    reason: str
