"""Which recorded calls run on encrypted numbers, and what they do there: an affine map, a product, or nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum
from math import ceil, log2
from typing import TYPE_CHECKING, Any

import torch

from reconvene.costs.overwritten import writes_seen_elsewhere
from reconvene.errors import MODEL_REFUSALS
from reconvene.structure.inputs import map_tensors, tensors_in
from reconvene.structure.recording import written_by

if TYPE_CHECKING:
    from torch import Tensor

    from reconvene.structure import Structure
    from reconvene.structure.recording import Op

_LAYERS = frozenset({"convolution", "addmm", "mm"})
_SUMS = frozenset({"add", "sub", "rsub", "cat", "stack"})
_MOVES = {
    *("alias", "clone", "constant_pad_nd", "detach", "expand", "permute", "reshape", "select", "slice", "split"),
    *("split_with_sizes", "squeeze", "t", "transpose", "unbind", "unsqueeze", "_reshape_alias", "_unsafe_view", "view"),
}
_AFFINE = {*_MOVES, "native_batch_norm", "avg_pool2d", "_adaptive_avg_pool2d", "mean", "sum", "neg", "dropout"}
_ACTIVATIONS = (
    *("relu", "leaky_relu", "hardtanh", "gelu", "silu", "hardswish", "hardsigmoid", "sigmoid", "tanh", "elu", "mish"),
    *("softplus", "prelu"),
)
_SOFTMAX = "scores without softmax"
_CONSTANT_NORM = "batch norm, whose constants are known at inference"
_OUT_OF_PLACE = "the same call out of place: another tensor shows what it writes"
_ONE_BY_ONE = "calls that compute every image by itself and keep the first dimension, the images, as it is"
_SPLITS = frozenset({"split", "split_with_sizes", "unbind"})
_ALLOWED = frozenset({*_AFFINE, *_LAYERS, *_SUMS, "mul", "div", "square", "pow"})
SIZED = frozenset({"view", "_unsafe_view", "reshape", "expand"})
"""Calls whose second argument is a size, the number of images first."""
REPLACEMENTS = {
    **dict.fromkeys(_ACTIVATIONS, ("a polynomial, such as x * x", 2)),
    **dict.fromkeys(("max_pool1d", "max_pool2d"), ("average pooling", 1)),
    **dict.fromkeys(("softmax", "safe_softmax", "log_softmax"), (_SOFTMAX, 2)),
    **dict.fromkeys(("layer_norm", "group_norm"), (_CONSTANT_NORM, 2)),
}
"""What stands for a call that cannot run, and the degree of the polynomial that it then is."""
_OTHERWISE = ("sums and products", 2)


@dataclass(frozen=True)
class Blocked:
    """A call that CKKS has no operation for, and what replaces it."""

    layer: str
    operator: str
    instead: str

    def __str__(self) -> str:
        return (
            f"{self.operator} in {self.layer or 'the model itself'} cannot run on encrypted numbers: use {self.instead}"
        )


def readers_of(structure: Structure) -> dict[int, int]:
    """By how many calls of the eval pass each tensor is read; by the identity of the tensor.

    A layer whose output has several readers is evaluated once, for all of them.
    """
    readers: dict[int, int] = {}
    for op in structure.eval_ops():
        for key in {id(tensor) for tensor in tensors_in(op.args)}:
            readers[key] = readers.get(key, 0) + 1
    return readers


class Kind(Enum):
    """What a call does with encrypted numbers."""

    LAYER = "a product with constant weights"
    AFFINE = "sums and constant factors, which become part of the layer before or behind"
    SCALE = "one factor for all numbers, or one number added to all"
    SUM = "a sum of encrypted numbers"
    PRODUCT = "a product of encrypted numbers"
    POWER = "a power with a whole exponent"
    BLOCKED = "nothing that CKKS has"


def kind_of(op: Op, operands: Sequence[Any]) -> Kind:
    """What a recorded call does, of whose arguments these tensors are encrypted."""
    name = op.operator.removesuffix("_")
    if _obstacle(op, operands):
        return Kind.BLOCKED
    alike_in_shape = len({tuple(tensor.shape) for tensor in operands}) == 1
    constants = [value for value in op.args if not any(value is tensor for tensor in operands)]
    if op.operator in _LAYERS and len(operands) == 1:
        return Kind.LAYER
    if name in ("mul", "square") and (len(operands) > 1 or name == "square"):
        return Kind.PRODUCT if alike_in_shape else Kind.BLOCKED  # numbers are multiplied one by one
    if op.operator in _LAYERS or name in ("bmm", "mm"):
        return Kind.BLOCKED  # a matrix product of two encrypted tensors
    if name == "pow" and isinstance(op.args[1], int | float) and op.args[1] > 0 and float(op.args[1]).is_integer():
        return Kind.POWER
    if name == "mul" or (name == "div" and op.args[0] is operands[0]):
        return Kind.SCALE if all(_is_number(value) for value in constants) else Kind.AFFINE
    if name in _SUMS:
        alike = name in ("add", "sub", "rsub") and all(_is_number(value) for value in constants)
        return Kind.SUM if len(operands) > 1 else Kind.SCALE if alike else Kind.AFFINE
    return Kind.AFFINE if name in _AFFINE else Kind.BLOCKED


def _obstacle(op: Op, operands: Sequence[Any]) -> str:
    """What stands in for a call that cannot run for how it is called, whatever it computes; empty where it may run."""
    name = op.operator.removesuffix("_")
    outputs = [out for out in op.outs if out is not None]
    if name == "native_batch_norm" and op.args[5]:  # statistics of the very numbers that are encrypted
        return _CONSTANT_NORM
    if any(all(tensor is not operand for operand in operands) for tensor in written_by(op)):
        return "the same call out of place: it writes into a tensor that is not encrypted"
    if name == "div" and op.kwargs.get("rounding_mode") is not None:
        return "a division without rounding"
    if name in _SPLITS and len(outputs) > 1:
        return "slices, such as x[:, :8]"
    return "" if _keeps_images(op, operands, outputs[:1]) else _ONE_BY_ONE


def _keeps_images(op: Op, operands: Sequence[Any], outputs: Sequence[Any]) -> bool:
    """Whether a call keeps the images as its first dimension, tried with a number of images that is no other size.

    With as many images as were recorded, above all with one, a mean over the images has the same shape as the images.
    """
    sizes = {size for tensor in (*op.tensors, *outputs) for size in tensor.shape}
    images, count = {tuple(tensor.shape[:1]) for tensor in (*operands, *outputs)}, max(sizes, default=0) + 1
    if len(images) != 1 or images == {()}:
        return False
    if op.operator.removesuffix("_") not in _ALLOWED:
        return True  # it is blocked by what it computes

    def resized(tensor: Tensor) -> Tensor:
        shape = (count, *tensor.shape[1:]) if any(tensor is operand for operand in operands) else tensor.shape
        return torch.empty(shape, dtype=tensor.dtype, device="meta")

    arguments = list(map_tensors(resized, op.args))
    if op.operator in SIZED:
        arguments[1] = [count, *list(arguments[1])[1:]]
    try:
        results = op.func(*arguments, **{**op.kwargs})
    except MODEL_REFUSALS:
        return False
    first = results[0] if isinstance(results, tuple | list) else results
    return all(tuple(first.shape) == (count, *out.shape[1:]) for out in outputs)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) or getattr(value, "ndim", 1) == 0


@dataclass(frozen=True)
class _State:
    """An encrypted tensor: an affine map, evaluated or not, of tensors that were evaluated.

    ``levels`` and ``depth`` are those of the ``sources``. ``pending``: the map is not the identity; ``layer``: it holds
    a layer. ``base``: the tensor that this one is a multiple of, plus a number where it is ``shifted``.
    """

    levels: int
    depth: int
    sources: tuple[Any, ...]
    pending: bool = False
    layer: bool = False
    base: Any = None
    shifted: bool = False


class EncryptedWalk:
    """Follows encrypted tensors through the recorded calls.

    Affine maps are put together and evaluated where a product, another layer or the end needs their numbers: that takes
    one level. The runtime of ``reconvene.deploy.encrypted`` does the same with numbers.

    Attributes:
        blocked: calls that cannot run.
        evaluated: for every affine map that is evaluated the tensors it reads, and the tensor it gives.
        levels: levels of the modulus on the longest path; ``depth`` the products among them.
    """

    def __init__(self, structure: Structure) -> None:
        self.blocked: list[Blocked] = []
        self.evaluated: list[tuple[tuple[Any, ...], Any]] = []
        recording = structure.recording
        self._seen_elsewhere = writes_seen_elsewhere(structure.eval_ops(), structure.eval_outputs())
        self._states = {id(tensor): _State(0, 0, (tensor,)) for tensor in recording.inputs}
        readers = readers_of(structure)
        for op in structure.eval_ops():
            operands = [tensor for tensor in tensors_in(op.args) if id(tensor) in self._states]
            for tensor in operands:
                if readers[id(tensor)] > 1 and self._state(tensor).layer:
                    self._evaluated(tensor)
            if operands:
                state = self._after(op, operands)
                self._states.update((id(out), state) for out in op.outs if out is not None)
        outputs = [self._evaluated(tensor) for tensor in recording.outputs if id(tensor) in self._states]
        self.levels = max((state.levels for state in outputs), default=0)
        self.depth = max((state.depth for state in outputs), default=0)

    def _state(self, tensor: Any) -> _State:
        state = self._states[id(tensor)]
        if state.base is None:
            return state
        return replace(self._states[id(state.base)], pending=True, base=state.base, shifted=state.shifted)

    def _evaluated(self, tensor: Any) -> _State:
        state = self._state(tensor)
        if not state.pending:
            return state
        self.evaluated.append((state.sources, tensor))
        self._states[id(tensor)] = _State(state.levels + 1, state.depth, (tensor,))
        return self._states[id(tensor)]

    def _after(self, op: Op, operands: list[Any]) -> _State:
        obstacle = _OUT_OF_PLACE if id(op) in self._seen_elsewhere else _obstacle(op, operands)
        kind, first = Kind.BLOCKED if obstacle else kind_of(op, operands), operands[0]
        state = self._state(first)
        match kind:
            case Kind.PRODUCT:
                return self._product(op, [operands[0], operands[-1]], products=1)
            case Kind.POWER:
                return self._product(op, [first], products=ceil(log2(op.args[1])))
            case Kind.SCALE:
                shifted = state.shifted or op.operator.removesuffix("_") in _SUMS
                base = first if state.base is None else state.base
                return replace(state, pending=True, base=base, shifted=shifted)
            case Kind.SUM:
                states = [self._state(tensor) for tensor in operands]
                sources = {id(source): source for state in states for source in state.sources}
                return _State(
                    max(state.levels for state in states),
                    max(state.depth for state in states),
                    tuple(sources.values()),
                    pending=True,
                    layer=any(state.layer for state in states),
                )
            case Kind.LAYER:
                state = self._evaluated(first) if state.layer else state
                return replace(state, pending=True, layer=True, base=None, shifted=False)
            case Kind.AFFINE:
                return replace(state, pending=True, base=None, shifted=False)
        name = op.operator.strip("_").removeprefix("native_").removesuffix("_with_indices").removesuffix("_kernel")
        instead, degree = REPLACEMENTS.get(name, _OTHERWISE)
        if obstacle:
            instead, degree = obstacle, 1
        self.blocked.append(Blocked(op.owner, name, instead))
        return (
            self._product(op, [first], products=1)
            if degree > 1
            else replace(state, pending=True, base=None, shifted=False)
        )

    def _product(self, op: Op, operands: Sequence[Any], *, products: int) -> _State:
        """After a product: factors of the operands, and what was added to them, wait for the next layer.

        ``(a x + b) (c y + d)`` is ``a c x y + a d x + b c y + b d``: one product, of ``x`` and ``y``.
        """
        before = [self._states[id(tensor)] for tensor in operands]
        if len(operands) == 1 and before[0].shifted:  # a power
            before[0] = self._evaluated(operands[0])
        bases = [t if state.base is None else state.base for t, state in zip(operands, before, strict=True)]
        states = [self._evaluated(base) for base in bases]
        sources = [op.outs[0]]
        for base, other in zip(bases, reversed(before), strict=True):
            if other.shifted and len(operands) == 2 and all(base is not source for source in sources):
                sources.append(base)
        return _State(
            max(state.levels for state in states) + products,
            max(state.depth for state in states) + products,
            tuple(sources),
            pending=any(state.base is not None for state in before),
        )
