"""Bytes of the weights file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from math import prod
from typing import TYPE_CHECKING

from reconvene.costs.base import SumOfProducts
from reconvene.costs.unit import BYTES

if TYPE_CHECKING:
    from reconvene.costs.base import Term
    from reconvene.structure import Structure

_TYPE = {1: "BOOL", 2: "BF16", 4: "F32", 8: "F64", 16: "C128"}


class FileSize(SumOfProducts):
    """Bytes of ``model.safetensors``: tensors, and the dense header, which no smaller one exceeds."""

    name, label, plural, less, unit = "size", "File size", "bytes of weights", "smaller", BYTES
    meaning = "Bytes of the weights file: 16x, 1MB."
    condition = "of model.safetensors"

    def terms(self, structure: Structure) -> Sequence[Term]:
        """Every tensor that the file holds, in bytes."""
        tensors = structure.context.tensors
        return [(tensors[id(tensor)], tensor.element_size()) for tensor in structure.recording.parameters.values()]

    def fixed(self, structure: Structure) -> int:
        """Bytes of the header."""
        return header_bytes(structure)


def header_bytes(structure: Structure) -> int:
    """Length of the safetensors header of the dense model, an upper bound for every smaller one."""
    return safetensors_overhead(
        {n: (tuple(t.shape), t.element_size()) for n, t in structure.recording.parameters.items()}
    )


def safetensors_overhead(tensors: dict[str, tuple[tuple[int, ...], int]]) -> int:
    """Bytes a safetensors file needs beside the tensors themselves: eight, and a JSON header padded to eight.

    Args:
        tensors: shape and bytes per element of every tensor, by name.
    """
    total = sum(prod(shape) * item for shape, item in tensors.values())
    length = 2
    for name, (shape, item) in tensors.items():
        entry = {"dtype": _TYPE[item], "shape": list(shape), "data_offsets": [total, total]}  # none has more digits
        length += len(json.dumps({name: entry}, separators=(",", ":"), ensure_ascii=False).encode()) - 1
    return 8 + (length + 7) // 8 * 8
