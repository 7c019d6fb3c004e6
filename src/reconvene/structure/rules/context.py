"""What a rule works with: the labels of every tensor, and notes for the steps that follow."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import wraps
from typing import Any

from torch import Tensor

from reconvene.structure.labels import Dim, Labels, Reason, rigid
from reconvene.structure.recording import Op

Rule = Callable[["Context", Op], None]


@dataclass
class Context:
    """Labels of tensors while the recorded calls are read in order."""

    labels: Labels = field(default_factory=Labels)
    tensors: dict[int, list[Dim]] = field(default_factory=dict)
    attributes: list[tuple[str, str, Dim]] = field(default_factory=list)
    """``(module, attribute, dim)``: the attribute must become the kept size of the dimension."""
    restricted: list[tuple[int, dict[int, Dim | list[Dim]]]] = field(default_factory=list)
    """Calls whose value depends on how many channels there are, with the arguments that are sizes: the silenced
    reference computes them on kept channels only."""
    products: list[tuple[int, list[Dim]]] = field(default_factory=list)
    """``(call, dims)``: the call costs the product of these sizes in multiply-accumulates."""
    unknown: list[str] = field(default_factory=list)
    weights: set[int] = field(default_factory=set)
    """Tensors that are parameters or views of parameters."""
    derived: set[int] = field(default_factory=set)
    """Tensors computed from parameters alone (standardised weights)."""
    known_cuts: set[int] = field(default_factory=set)
    """Outputs of slices and splits whose sizes follow from attributes and shapes."""
    chunks: set[int] = field(default_factory=set)
    """Pieces of ``chunk``: the last one may be shorter."""
    last_view: dict[int, int] = field(default_factory=dict)
    """Tensors whose shape is changed in place, with the number of the last call that does."""
    index: int = 0

    def dims(self, tensor: Tensor) -> list[Dim]:
        """The dimensions of a tensor; one that no recorded call made is fixed."""
        tensor_dims = self.tensors.get(id(tensor))
        return tensor_dims if tensor_dims is not None else [rigid(size) for size in tensor.shape]

    def of_weights(self, tensors: Sequence[Tensor]) -> bool:
        """Whether there are tensors, and all of them are parameters or computed from parameters alone."""
        return bool(tensors) and all(id(t) in self.weights or id(t) in self.derived for t in tensors)

    def set(self, tensor: Tensor | None, dims: Sequence[Dim]) -> None:
        """Give an output its dimensions (an in-place result keeps the ones it has)."""
        if tensor is not None:
            self.tensors.setdefault(id(tensor), list(dims))

    def same_source(self, op: Op) -> None:
        """What is picked from a parameter is one: where channels were removed it holds zeros."""
        sources = op.args[0] if isinstance(op.args[0], (list, tuple)) else [op.args[0]]
        if all(id(source) in self.weights for source in sources):
            self.weights.update(id(out) for out in op.outs if out is not None)

    def set_like(self, op: Op, source: Tensor) -> None:
        """Every output of the same shape as ``source`` has its dimensions; other outputs are fixed."""
        dims = self.dims(source)
        for out in op.outs:
            if out is not None:
                self.set(out, dims if out.shape == source.shape else [rigid(s) for s in out.shape])

    def set_fixed(self, op: Op) -> None:
        """Nothing of any output can go."""
        for out in op.outs:
            if out is not None:
                self.set(out, [rigid(size) for size in out.shape])

    def pin_all(self, op: Op, why: str) -> None:
        """Nothing that this call reads or makes can go."""
        self.pin(op, *(dim for tensor in op.tensors for dim in self.dims(tensor)), why=why)
        self.set_fixed(op)

    def pin(self, op: Op, *dims: Dim, why: str = "") -> None:
        """Pin dimensions because of this call."""
        for dim in dims:
            self.labels.pin(dim, why or because(op, "needs the whole dimension"))

    def restrict(self, sizes: dict[int, Dim | list[Dim]] | None = None) -> None:
        """Note that the current call's value depends on how many channels there are.

        ``sizes`` says which arguments do too.
        """
        self.restricted.append((self.index, sizes or {}))

    def attribute(self, op: Op, name: str, dim: Dim) -> None:
        """Note that an attribute of the layer that made this call is the size of a dimension."""
        self.attributes.append((op.owner, name, dim))


def because(op: Op, cause: str) -> Reason:
    """Why positions stay: this call, and what it does to them."""
    return Reason(op.operator, op.owner, cause)


def arg(op: Op, position: int, name: str, default: Any = None) -> Any:
    """An argument of a call, whether given by position or by name."""
    if position < len(op.args):
        return op.args[position]
    return op.kwargs.get(name, default)


def named_argument(op: Op, name: str, default: Any = None) -> Any:
    """An argument of a call by its name in the operator's schema; ``default`` where this overload has none."""
    for position, argument in enumerate(op.func._schema.arguments):
        if argument.name == name:
            return arg(op, position, name, argument.default_value)
    return default


def with_dimensions(rule: Rule) -> Rule:
    """The rule for a call on a dimension; a first argument of no dimension leaves nothing to follow in the others."""

    def read(ctx: Context, op: Op) -> None:
        if ctx.dims(op.args[0]):
            rule(ctx, op)
        else:
            ctx.pin_all(op, f"{op.site} reads a single number")

    return wraps(rule)(read)


def axis_of(value: int, ndim: int) -> int:
    """A dimension number counted from the front."""
    return value + ndim if value < 0 else value


def axes_of(value: Any, ndim: int) -> list[int]:
    """Dimension numbers counted from the front; none given means all."""
    if value is None or (isinstance(value, (list, tuple)) and not value):
        return list(range(ndim))
    if not ndim:  # PyTorch lets a number have a dimension of its own
        return []
    values = [value] if isinstance(value, int) else value
    return sorted(axis_of(v, ndim) for v in values)
