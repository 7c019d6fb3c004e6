"""The cut: which channels of which groups stay, and the sizes and calls that follow."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Annotated, Any

import numpy as np
from pydantic import AfterValidator

from reconvene.structure.state import StateItem
from reconvene.surgery.bits import BitPlan
from reconvene.surgery.ranges import Ranges, from_text
from reconvene.surgery.silence import SilencedCall
from reconvene.utils import schema
from reconvene.utils.arrays import Ints
from reconvene.utils.schema import Count, Name, Number, Plain, Text


@schema.closed
@dataclass
class PlanRow:
    """One group in a plan: how wide it was, how wide it stays, and why."""

    name: Name
    dense: Count
    width: Count
    keep: Ranges
    loss: Number | None = None
    density: Number | None = None
    why: Text = ""


def _fixed(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


@dataclass(frozen=True)
class Cut:
    """All that makes a smaller network of a dense one; nothing else of a plan is read for it."""

    rows: list[PlanRow]
    pinned: list[dict[str, Plain]]
    """Groups nothing of which can leave: ``name``, ``width``, ``why``."""
    shapes: dict[Name, list[Count]]
    """Dense shape of every parameter and buffer, by its first name: the plan fits this model and no other."""
    slices: dict[Name, dict[Count, Ranges]]
    """Kept positions (as ranges) by parameter and dimension; what is not named stays whole."""
    attributes: list[tuple[Name, Name, Annotated[Plain, AfterValidator(_fixed)]]]
    """``(module, attribute, value)`` of the sizes that modules keep beside their tensors."""
    sites: list[SilencedCall] = field(default_factory=list)
    state: list[StateItem] = field(default_factory=list)
    """What a forward pass leaves for the next one, and how it starts afresh in the networks that a plan makes."""
    bits: BitPlan | None = None
    """Bits of the small network's weights, where the plan decides them."""

    @property
    def keep(self) -> dict[str, Ints]:
        """Kept channels by group."""
        return {row.name: from_text(row.keep) for row in self.rows}

    @property
    def widths(self) -> Ints:
        """Kept width of every group, int64 ``[groups]``."""
        return np.array([row.width for row in self.rows], dtype=np.int64)

    @property
    def is_whole(self) -> bool:
        """Whether every group keeps all of its channels."""
        return all(row.width == row.dense for row in self.rows)

    @property
    def summary(self) -> list[dict[str, Any]]:
        """The rows as plain dictionaries, without the channel lists."""
        return [{k: v for k, v in dataclasses.asdict(row).items() if k != "keep"} for row in self.rows]

    @property
    def touched(self) -> list[str]:
        """Modules whose tensors change, in model order."""
        return list(dict.fromkeys(name.rpartition(".")[0] for name in self.slices))
