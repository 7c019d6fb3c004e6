"""From when to when every activation lives, and how many bytes are alive at once."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from reconvene.costs.sizes import Products, Sizes
from reconvene.structure import Structure
from reconvene.structure.inputs import tensors_in
from reconvene.structure.labels import Dim
from reconvene.structure.recording import memory_of
from reconvene.utils.arrays import Ints


class Peak:
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
        self._weights = {memory_of(t) for t in structure.recording.parameters.values()}
        ops = structure.eval_ops()
        self.calls = len(ops)
        for tensor in structure.recording.inputs:
            self._see(tensor, 0)
        for call, op in enumerate(ops):
            if op.func is torch.ops.aten.alias.default and memory_of(op.args[0]) in self._weights:
                self._weights.update(memory_of(out) for out in op.outs if out is not None)
            for tensor in (*tensors_in((op.args, op.kwargs)), *(o for o in op.outs if o is not None)):
                self._see(tensor, call)
        for tensor in structure.recording.outputs:
            number = self._number.get(memory_of(tensor))
            if number is not None:
                self.death[number] = self.calls - 1

    def _see(self, tensor: Tensor, call: int) -> None:
        storage = memory_of(tensor)
        if storage in self._weights or not tensor.numel():
            return
        number = self._number.setdefault(storage, len(self.dims))
        if number == len(self.dims):
            self.dims.append(self._structure.context.dims(tensor))
            self.item_sizes.append(tensor.element_size())
            self.birth.append(call)
            self.death.append(call)
        self.death[number] = call
