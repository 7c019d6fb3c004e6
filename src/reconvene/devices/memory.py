"""Activations that a runtime holds at once, as a function of widths: what the solver keeps budgets on memory by.

A runtime computes layers as ``sites`` has them: a batch norm, an activation and (``onnx`` in float32) an addition
behind a convolution need no memory of their own, and a result that nobody reads takes none. Memory is the largest sum
of what is alive while one layer is computed, which no allocator undercuts and which greedy ones exceed; what one really
takes is looked up in the runtime once the network is there.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from reconvene.costs.sizes import Products, Sizes
from reconvene.devices.operators import ACTIVATIONS, FREE
from reconvene.devices.runtime_layers import CallReader
from reconvene.structure import Structure
from reconvene.structure.inputs import tensors_in
from reconvene.structure.labels import Dim
from reconvene.structure.recording import Op
from reconvene.utils.arrays import Ints

_IN_PLACE = frozenset({*ACTIVATIONS, "add", "mul"})


@dataclass(frozen=True)
class ActivationPolicy:
    """How a runtime holds activations.

    ``item``: bytes of a number; ``outside``: bytes of a number of the inputs where these are in the runtime's memory
    as well, before it has made its own of them; ``own_inputs``: whether it makes its own; ``adds``: whether an addition
    is part of the convolution before it; ``in_place``: whether operators without weights write over what only they
    read; ``block``: channels of images are held in whole blocks of so many.
    """

    item: int
    outside: int
    own_inputs: bool
    adds: bool
    in_place: bool
    block: int = 1


BLOCK = {"AVX512": 16, "AVX2": 8}.get(torch.backends.cpu.get_cpu_capability(), 1)
"""In what blocks ONNX Runtime holds the channels of images on this machine, where it is asked, too."""


class Held:
    """Bytes of activations alive at once, at any widths of one network."""

    def __init__(self, structure: Structure, policy: ActivationPolicy) -> None:
        self._sizes = Sizes(structure)
        lives = _Lives(structure, policy)
        images = [policy.block > 1 and len(dims) == 4 for dims in lives.dims]
        other_dims = [[*dims[:1], *dims[2:]] if image else dims for dims, image in zip(lives.dims, images, strict=True)]
        channels = [dims[1:2] if image else [] for dims, image in zip(lives.dims, images, strict=True)]
        self._rest, self._channels = Products(self._sizes, other_dims, lives.items), Products(self._sizes, channels)
        self._block = np.where(images, policy.block, 1)
        self._birth, self._death = np.array(lives.birth, np.int64), np.array(lives.death, np.int64)
        self._moments = lives.moments + 1

    def bytes(self, widths: Ints) -> float:
        """Bytes at these widths, int64 ``[groups]``; never falls when a width grows."""
        sizes = self._sizes.at(widths)
        buffer_bytes = self._rest.terms(sizes) * (-(-self._channels.terms(sizes) // self._block) * self._block)
        born, freed = (np.bincount(when, buffer_bytes, self._moments) for when in (self._birth, self._death + 1))
        return float(np.cumsum(born - freed).max())


class _Lives:
    """First and last moment of every buffer: moment 0 is the inputs', then every call has one."""

    def __init__(self, structure: Structure, policy: ActivationPolicy) -> None:
        self.dims: list[list[Dim]] = []
        self.items: list[int] = []
        self.birth: list[int] = []
        self.death: list[int] = []
        self._of: dict[int, int] = {}
        self._structure, self._policy = structure, policy
        self._reader = CallReader(structure)
        ops = structure.eval_ops()
        self.moments = len(ops) + 1
        self._read_last = {id(t): moment for moment, op in enumerate(ops, 1) for t in tensors_in((op.args, op.kwargs))}
        self._read_last |= {id(tensor): self.moments for tensor in structure.recording.outputs}
        for tensor in structure.recording.inputs:
            if policy.outside:
                self._new(tensor, policy.outside, 0)
            if policy.own_inputs:
                self._new(tensor, policy.item, 0)
        for moment, op in enumerate(ops, 1):
            self._call(op, moment)
        for tensor in structure.recording.outputs:
            if id(tensor) in self._of:
                self.death[self._of[id(tensor)]] = self.moments - 1

    def _call(self, op: Op, moment: int) -> None:
        weights = self._structure.context.weights
        read = [tensor for tensor in tensors_in((op.args, op.kwargs)) if id(tensor) not in weights]
        buffered = [tensor for tensor in read if id(tensor) in self._of]
        before = len(self._reader.sites)
        self._reader.read(op)
        for tensor in buffered:
            self._keep(self._of[id(tensor)], moment)
        out = next((out for out in op.outs if out is not None), None)  # of several results runtimes make the first
        if not read or out is None:
            return
        name = op.name.split(".")[1] if op.name.startswith("aten.") else op.name
        over = self._written_over(name, buffered, out, moment, fused=len(self._reader.sites) == before)
        if over is not None:
            self._of[id(out)] = over
            self._keep(over, moment)
        elif name not in FREE:  # else it is a view of what the caller holds
            self._new(out, self._policy.item, moment)

    def _written_over(self, name: str, buffered: list[Tensor], out: Tensor, moment: int, *, fused: bool) -> int | None:
        """The buffer that the result shares, if there is one."""
        if not buffered:
            return None
        if name in FREE:
            return self._of[id(buffered[0])]
        name = name.removesuffix("_")
        reusable = [self._of[id(t)] for t in buffered if t.shape == out.shape and self._read_last[id(t)] <= moment]
        if not fused:
            return reusable[0] if self._policy.in_place and name in _IN_PLACE and reusable else None
        newest = max((self._of[id(tensor)] for tensor in buffered), key=lambda number: self.birth[number])
        if name != "add":
            return newest
        other_buffers = [number for number in reusable if number != newest]
        if not self._policy.adds:
            return None
        if not other_buffers:
            return newest
        self.items[newest] = 0  # the convolution writes over what is added, and never had a buffer of its own
        return other_buffers[0]

    def _new(self, tensor: Tensor, item: int, moment: int) -> None:
        self._of[id(tensor)] = len(self.dims)
        self.dims.append(self._structure.context.dims(tensor))
        self.items.append(item)
        self.birth.append(moment)
        self.death.append(moment)

    def _keep(self, number: int, moment: int) -> None:
        self.death[number] = max(moment, self.death[number])
