"""Labels: which positions of which tensor dimensions are the same channel.

Every position of every parameter dimension is an integer *atom*; atom 0 means "pinned, never leaves". A dimension of
a tensor is a tuple of factors ``(size, labels)``, outermost first, where ``labels`` is an int64 vector of atoms or
``None`` for a size that has nothing to do with channels (batch, height, tokens). A dimension of size one has no
factors. Rules record unions of atoms; nothing is decided before all of them are known (see ``solve``).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import prod

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.int64]
Factor = tuple[int, Vector | None]
Dim = tuple[Factor, ...]


class Reason(str):
    """Why positions stay, in words that keep their parts: what needs them, the layer that calls it, and for what.

    Reasons that differ in the layer alone are of one kind. ``follows``: positions stay only because those that they
    meet do, so something else is the root.
    """

    operator: str
    layer: str
    cause: str
    follows: bool

    def __new__(cls, operator: str, layer: str, cause: str, follows: bool = False) -> Reason:
        """``operator`` in ``layer`` and then ``cause``, such as ``reads a fixed input``."""
        self = super().__new__(cls, f"{operator} in {layer or 'the model itself'} {cause}")
        self.operator, self.layer, self.cause, self.follows = operator, layer, cause, follows
        return self

    def __getnewargs__(self) -> tuple[str, str, str, bool]:  # type: ignore[override]
        return self.operator, self.layer, self.cause, self.follows

    @property
    def kind(self) -> str:
        """The reason without the layer."""
        return f"{self.operator} {self.cause}"


@dataclass(slots=True)
class Tie:
    """A labelled vector that code views as several axes: which axis carries its channels is decided after all unions.

    ``array`` has one axis per entry of ``axes``; exactly one axis may stay free, the others become pinned.
    """

    array: Vector
    axes: tuple[Vector | None, ...]
    reason: str


@dataclass
class Labels:
    """The store of atoms, unions, pins and ties that the rules fill."""

    count: int = 1
    unions: list[tuple[Vector, Vector]] = field(default_factory=list)
    pins: list[tuple[Vector, str]] = field(default_factory=list)
    ties: list[Tie] = field(default_factory=list)
    heads: list[Vector] = field(default_factory=list)
    pieces: list[tuple[list[Vector], str]] = field(default_factory=list)
    """Label vectors that Python cuts into equal pieces: each piece must keep the same count."""

    def fresh(self, size: int) -> Vector:
        """``size`` new atoms."""
        start = self.count
        self.count += size
        return np.arange(start, self.count, dtype=np.int64)

    def fresh_dim(self, size: int) -> Dim:
        """A dimension of new atoms."""
        return () if size == 1 else ((size, self.fresh(size)),)

    def pin(self, dim: Dim, reason: str) -> None:
        """Keep every position of ``dim``."""
        for _, labels in dim:
            if labels is not None:
                self.pins.append((labels, reason))

    def flat(self, dim: Dim, reason: str) -> Vector | None:
        """The labels of every position of ``dim`` in one vector; ``None`` if no factor has labels."""
        if len(dim) <= 1:
            return dim[0][1] if dim else None
        labelled = [i for i, (_, labels) in enumerate(dim) if labels is not None]
        if not labelled:
            return None
        shape = tuple(size for size, _ in dim)
        if len(labelled) == 1:
            view = [1] * len(shape)
            view[labelled[0]] = shape[labelled[0]]
            labels = dim[labelled[0]][1]
            assert labels is not None
            return np.ascontiguousarray(np.broadcast_to(labels.reshape(view), shape)).reshape(-1)
        flat_labels = self.fresh(prod(shape))
        self.ties.append(Tie(flat_labels.reshape(shape), tuple(labels for _, labels in dim), reason))
        return flat_labels

    def unify(self, first: Dim, second: Dim, reason: str) -> None:
        """Positions of two dimensions of the same size are the same channels; size one broadcasts and says nothing."""
        if not first or not second or first is second:
            return
        if all(labels is None for _, labels in first):
            self.pin(second, _following(reason))
            return
        if all(labels is None for _, labels in second):
            self.pin(first, _following(reason))
            return
        sizes_first, sizes_second = [s for s, _ in first], [s for s, _ in second]
        if sizes_first == sizes_second:
            for first_factor, second_factor in zip(first, second, strict=True):
                self._unify_factor(first_factor, second_factor, reason)
            return
        common = refinement(sizes_first, sizes_second)
        if common is None:
            self.pin(first, reason)
            self.pin(second, reason)
            return
        for first_factor, second_factor in zip(
            self.refine(first, common, reason), self.refine(second, common, reason), strict=True
        ):
            self._unify_factor(first_factor, second_factor, reason)

    def _unify_factor(self, first: Factor, second: Factor, reason: str) -> None:
        first_labels, second_labels = first[1], second[1]
        if first_labels is not None and second_labels is not None:
            if first_labels is not second_labels:
                self.unions.append((first_labels, second_labels))
        elif first_labels is not None or second_labels is not None:
            self.pin((first, second), _following(reason))

    def refine(self, dim: Dim, sizes: list[int], reason: str) -> Dim:
        """The same dimension with factors of exactly these sizes (a refinement of its own)."""
        out: list[Factor] = []
        remaining = list(sizes)
        for size, labels in dim:
            parts: list[int] = []
            while prod(parts) < size:
                parts.append(remaining.pop(0))
            out += self.split((size, labels), parts, reason)
        return tuple(out)

    def split(self, factor: Factor, sizes: list[int], reason: str) -> list[Factor]:
        """View one factor as axes of these sizes. Labels constant along all axes but one belong to that axis."""
        labels = factor[1]
        if len(sizes) == 1:
            return [factor]
        if labels is None:
            return [(size, None) for size in sizes]
        array = labels.reshape(sizes)
        wide = [axis for axis, size in enumerate(sizes) if size > 1]
        if len(wide) == 1:
            return [(size, labels if axis == wide[0] else None) for axis, size in enumerate(sizes)]
        for axis in wide:
            line = array[tuple(slice(None) if a == axis else slice(0, 1) for a in range(len(sizes)))]
            if (array == line).all():
                return [(size, line.reshape(-1) if a == axis else None) for a, size in enumerate(sizes)]
        axes = tuple(self.fresh(size) if size > 1 else None for size in sizes)
        self.ties.append(Tie(array, axes, reason))
        return [(size, axis) for size, axis in zip(sizes, axes, strict=True)]

    def regroup(self, dims: list[Dim], shape: list[int], reason: str) -> list[Dim]:
        """A view: the same positions under another shape. What cannot be followed is pinned."""
        if 0 in shape:
            return [() if s == 1 else ((s, None),) for s in shape]
        queue = [factor for dim in dims for factor in dim]
        out: list[Dim] = []
        for size in shape:
            factors: list[Factor] = []
            missing = size
            while missing > 1:
                head = queue.pop(0)
                if missing % head[0] == 0:
                    factors.append(head)
                    missing //= head[0]
                elif head[0] % missing == 0:
                    outer, inner = self.split(head, [missing, head[0] // missing], reason)
                    factors.append(outer)
                    queue.insert(0, inner)
                    missing = 1
                elif head[1] is None and queue and queue[0][1] is None:
                    queue[0] = (head[0] * queue[0][0], None)  # fixed sizes can be cut anywhere (8, 7 viewed as 7, 8)
                else:
                    for dim in dims:
                        self.pin(dim, reason)
                    return [() if s == 1 else ((s, None),) for s in shape]
            out.append(tuple(f for f in factors if f[0] > 1))
        return out


def _following(reason: str) -> str:
    if isinstance(reason, Reason):
        return Reason(reason.operator, reason.layer, reason.cause, follows=True)
    return reason


def refinement(first: list[int], second: list[int]) -> list[int] | None:
    """The coarsest list of factor sizes that both lists can be split into; ``None`` if there is none."""
    left, right, out = list(first), list(second), []
    while left and right:
        a, b = left.pop(0), right.pop(0)
        if a == b:
            out.append(a)
            continue
        # A factor is outermost first, so the smaller one must be the outer part of the larger.
        small, large, remaining = (a, b, right) if a < b else (b, a, left)
        if large % small:
            return None
        out.append(small)
        remaining.insert(0, large // small)
    return out if not left and not right else None


def rigid(size: int) -> Dim:
    """A dimension that has nothing to do with channels."""
    return () if size == 1 else ((size, None),)


def dimension_size(dim: Dim) -> int:
    """Positions of a dimension."""
    return prod(size for size, _ in dim)


def is_labelled(dim: Dim) -> bool:
    """Whether any factor of the dimension carries labels."""
    return any(labels is not None for _, labels in dim)
