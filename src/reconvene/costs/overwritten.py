"""Calls that write into memory which another tensor shows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from reconvene.structure.recording import memory_of, written_by

if TYPE_CHECKING:
    from torch import Tensor

    from reconvene.structure.recording import Op


def writes_seen_elsewhere(ops: Sequence[Op], outputs: Sequence[Tensor]) -> set[int]:
    """Calls, by identity, that change a tensor in place although another one of the same memory is read later.

    Where values are followed by tensor, as under encryption, the other tensor would keep its old numbers. What is made
    from the changed tensor later is no trouble.
    """
    last_read = {id(tensor): number for number, op in enumerate(ops) for tensor in op.tensors}
    last_read.update((id(tensor), len(ops)) for tensor in outputs)
    seen: dict[int, dict[int, Tensor]] = {}  # by memory: the tensors that there are so far
    calls = set()
    for number, op in enumerate(ops):
        for tensor in op.tensors:
            seen.setdefault(memory_of(tensor), {})[id(tensor)] = tensor
        for written in written_by(op):
            others = (key for key in seen[memory_of(written)] if key != id(written))
            if any(last_read.get(key, -1) > number for key in others):
                calls.add(id(op))
        for out in op.outs:
            if out is not None:
                seen.setdefault(memory_of(out), {})[id(out)] = out
    return calls
