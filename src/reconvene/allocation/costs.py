"""Costs of the smaller network as exact functions of the widths, read off the one recorded run.

Every size in the network is a product of factors, and every factor is linear in the number of kept channels of the
groups, so every cost is a sum of products that evaluates in microseconds: no model is built while widths are
searched.

- ``params``: scalar parameters, tied ones once.
- ``macs``: multiply-accumulates of convolutions and matrix products (attention included) of one forward pass on the
  example inputs; norms and elementwise work are not counted, and one fused multiply-add is one.
- ``peak_memory``: bytes of the largest set of activations alive at once when the calls run in recorded order, each
  freed after its last use, inputs included, views and in-place results shared; weights are not in it.
- ``size``: bytes of ``model.safetensors``: tensors plus a header (bounded by the dense one, some bytes too high at
  most).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from math import prod

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from reconvene.errors import PinnedCost, UnknownNameError
from reconvene.structure import Structure
from reconvene.structure.inputs import tensors_in
from reconvene.structure.labels import Dim, Vector
from reconvene.structure.pinned import COUNTED, pinned_cost

Ints = NDArray[np.int64]
_TYPE = {1: "BOOL", 2: "BF16", 4: "F32", 8: "F64", 16: "C128"}


class CostModel:
    """Evaluates ``params``, ``macs``, ``peak_memory`` and ``size`` for widths in ``structure.prunable`` order."""

    def __init__(self, structure: Structure) -> None:
        self._structure = structure
        self._sizes = Sizes(structure)
        self._terms = {
            "params": self._sum_of(_parameter_dims(structure, parameters_only=True)),
            "macs": self._sum_of(
                [dims for i, dims in structure.context.products if not structure.recording.ops[i].training]
            ),
            "size": self._sum_of(
                _parameter_dims(structure, parameters_only=False), _item_sizes(structure), header_bytes(structure)
            ),
        }
        self._peak = _Peak(structure, self._sizes)
        self._added: dict[str, Callable[[Ints], float]] = {}
        self._widths = structure.widths
        self.names: tuple[str, ...] = ("params", "macs", "peak_memory", "size")
        self.dense: dict[str, float] = {name: self.evaluate(name, structure.widths) for name in self.names}

    def add(self, cost: str, evaluate: Callable[[Ints], float]) -> None:
        """Let the solver keep one cost more, such as the latency on a device; it must not fall when a width grows."""
        self._added[cost] = evaluate
        self.names = (*(name for name in self.names if name != cost), cost)
        self.dense[cost] = evaluate(self._widths)

    def evaluate(self, cost: str, widths: Ints) -> float:
        """One cost at these widths: a count, or bytes (whole numbers), or seconds.

        Args:
            cost: ``params``, ``macs``, ``peak_memory``, ``size``, or one that was added.
            widths: kept channels per prunable group, int64 ``[groups]``.

        Raises:
            UnknownNameError: no such cost.
        """
        if cost in self._added:
            return self._added[cost](widths)
        sizes = self._sizes.at(widths)
        if cost == "peak_memory":
            return self._peak.at(sizes)
        if cost not in self._terms:
            raise UnknownNameError("cost", cost, self.names)
        return self._terms[cost].at(sizes)

    def pinned(self, cost: str, floor: float) -> PinnedCost | None:
        """What of a cost never leaves, and why, beside the least that could be reached; None where it has no parts."""
        if cost in self._added or cost not in COUNTED:
            return None
        return pinned_cost(self._structure, cost, floor=floor)

    def evaluate_all(self, widths: Ints) -> dict[str, float]:
        """Every cost at these widths."""
        return {name: self.evaluate(name, widths) for name in self.names}

    def _sum_of(
        self, products: Sequence[Sequence[Dim]], weights: Sequence[int] | None = None, offset: int = 0
    ) -> Products:
        return Products(self._sizes, products, weights, offset)


class Sizes:
    """Numbers the distinct labelled factors of a model and evaluates their sizes."""

    def __init__(self, structure: Structure) -> None:
        self._structure = structure
        self._number: dict[tuple[int, ...], int] = {}
        self._rows: list[tuple[int, ...]] = []
        self._by_vector: dict[int, int] = {}
        self._matrix: Ints | None = None
        self.of_row((1, *[0] * len(structure.prunable)))

    def of_row(self, row: tuple[int, ...]) -> int:
        """The number of a factor ``row[0] + row[1:] @ widths``; number 0 is the constant one."""
        if row not in self._number:
            self._number[row] = len(self._rows)
            self._rows.append(row)
        return self._number[row]

    def of_vector(self, labels: Vector) -> int:
        """The number of a labelled factor."""
        number = self._by_vector.get(id(labels))
        if number is None:
            group = self._structure.atom_group[labels]
            counts = np.bincount(group + 1, minlength=len(self._structure.prunable) + 1)
            per_channel = counts[1:] // np.maximum(self._structure.widths, 1)
            number = self._by_vector[id(labels)] = self.of_row((int(counts[0]), *(int(c) for c in per_channel)))
        return number

    def at(self, widths: Ints) -> Ints:
        """Sizes of all factors at these widths."""
        if self._matrix is None or len(self._matrix) != len(self._rows):
            self._matrix = np.array(self._rows, dtype=np.int64)
        out: Ints = self._matrix[:, 0] + np.dot(self._matrix[:, 1:], widths)
        return out


class Products:
    """A weighted sum of products of factors."""

    def __init__(
        self, sizes: Sizes, products: Sequence[Sequence[Dim]], weights: Sequence[int] | None = None, offset: int = 0
    ) -> None:
        rows = [monomial(sizes, dims) for dims in products]
        longest = max((len(numbers) for _, numbers in rows), default=1) or 1
        self.offset = offset
        scale = weights or [1] * len(rows)
        self.coefficient = np.array([c * w for (c, _), w in zip(rows, scale, strict=True)], dtype=np.int64)
        self.index = np.zeros((len(rows), longest), dtype=np.int64)
        for row, (_, numbers) in zip(self.index, rows, strict=True):
            row[: len(numbers)] = numbers

    def terms(self, sizes: Ints) -> Ints:
        """Every product at these factor sizes."""
        products: Ints = sizes[self.index].prod(axis=1)
        return np.multiply(self.coefficient, products)

    def at(self, sizes: Ints) -> int:
        """The sum at these factor sizes."""
        return int(self.terms(sizes).sum()) + self.offset


def monomial(sizes: Sizes, dims: Sequence[Dim]) -> tuple[int, list[int]]:
    """The size of a tensor: its fixed part, and the numbers of the factors that widths decide."""
    factors = [factor for dim in dims for factor in dim]
    fixed = prod(size for size, labels in factors if labels is None)
    return fixed, [sizes.of_vector(labels) for _, labels in factors if labels is not None]


class _Peak:
    """Bytes of activations alive at each call; the largest is the peak."""

    def __init__(self, structure: Structure, sizes: Sizes) -> None:
        lives = _Lives(structure)
        self.storages = Products(sizes, lives.dims, lives.item_sizes)
        self.birth, self.death = np.array(lives.birth, dtype=np.int64), np.array(lives.death, dtype=np.int64)
        self.calls = lives.calls

    def at(self, sizes: Ints) -> int:
        """The peak at these factor sizes."""
        if not len(self.birth):
            return 0
        storage_bytes = self.storages.terms(sizes)
        change = np.bincount(self.birth, storage_bytes, self.calls + 2) - np.bincount(
            self.death + 1, storage_bytes, self.calls + 2
        )
        return int(np.cumsum(change).max())


class _Lives:
    """First and last use of every activation storage."""

    def __init__(self, structure: Structure) -> None:
        self.dims: list[list[Dim]] = []
        self.item_sizes: list[int] = []
        self.birth: list[int] = []
        self.death: list[int] = []
        self._number: dict[int, int] = {}
        self._structure = structure
        self._weights = {_storage(t) for t in structure.recording.parameters.values()}
        ops = structure.eval_ops()
        self.calls = len(ops)
        for tensor in structure.recording.inputs:
            self._see(tensor, 0)
        for call, op in enumerate(ops):
            if op.func is torch.ops.aten.alias.default and _storage(op.args[0]) in self._weights:
                self._weights.update(_storage(out) for out in op.outs if out is not None)
            for tensor in (*tensors_in((op.args, op.kwargs)), *(o for o in op.outs if o is not None)):
                self._see(tensor, call)
        for tensor in structure.recording.outputs:
            number = self._number.get(_storage(tensor))
            if number is not None:
                self.death[number] = self.calls - 1

    def _see(self, tensor: Tensor, call: int) -> None:
        storage = _storage(tensor)
        if storage in self._weights or not tensor.numel():
            return
        number = self._number.setdefault(storage, len(self.dims))
        if number == len(self.dims):
            self.dims.append(self._structure.context.dims(tensor))
            self.item_sizes.append(tensor.element_size())
            self.birth.append(call)
            self.death.append(call)
        self.death[number] = call


def _storage(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def _parameter_dims(structure: Structure, *, parameters_only: bool) -> list[list[Dim]]:
    return [
        structure.context.tensors[id(tensor)]
        for tensor in structure.recording.parameters.values()
        if not parameters_only or isinstance(tensor, nn.Parameter)
    ]


def _item_sizes(structure: Structure) -> list[int]:
    return [tensor.element_size() for tensor in structure.recording.parameters.values()]


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
