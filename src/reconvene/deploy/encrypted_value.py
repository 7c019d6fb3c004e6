"""A value under encryption: an affine map of numbers that are there as ciphertexts, evaluated when they are needed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from reconvene.deploy.encrypted_packing import Packing, Part
from reconvene.deploy.encrypted_plain import results_of
from reconvene.structure.recording import Op, writes_in_place


class Affine:
    """``sum of source @ matrix, + bias``, so that constant factors and sums take no level of their own.

    Args:
        parts: sources, as a packing has them, and their matrices ``[inputs, outputs]``, float64.
        bias: float64 ``[outputs]``.
        shape: of one image.
        has_layer: whether a layer is in it: then another layer evaluates it first.
        base: the value that this one is a multiple of, the factor, and what is added.
    """

    def __init__(
        self,
        parts: Sequence[Part],
        bias: Tensor,
        shape: Sequence[int],
        *,
        has_layer: bool = False,
        base: tuple[Affine, float, float] | None = None,
    ) -> None:
        self._parts, self._bias, self.shape, self._has_layer, self._base = list(parts), bias, shape, has_layer, base

    @classmethod
    def of_source(cls, source: Any, size: int, shape: Sequence[int]) -> Affine:
        """The numbers of a source as they are."""
        return cls([(source, None, size)], torch.zeros(size, dtype=torch.float64), shape)

    @property
    def has_layer(self) -> bool:
        """Whether a layer is in it that is not evaluated yet."""
        return self._has_layer if self._base is None else self._base[0].has_layer

    def scaled(self, op: Op, arguments: Sequence[Any]) -> Affine:
        """The result of a call that gives all numbers the same factor, or adds the same number to all."""
        root, factor, shift = self._root
        values = [float(_called(op, arguments, {id(self): rows}, 1, alike=True)) for rows in torch.eye(2).double()]
        added, times = values[1], values[0] - values[1]
        return Affine([], self._bias, self.shape, base=(root, times * factor, times * shift + added))

    def times(self, other: Affine, packing: Packing) -> Affine:
        """The product with another value, or with itself: ``(a x + b) (c y + d)`` takes one product, of x and y."""
        (left, factor, shift), (right, other_factor, other_shift) = self._root, other._root
        sources = left.evaluated(packing), right.evaluated(packing)
        size = len(left._sum[1])
        parts: list[Part] = []
        _add_part(parts, packing.multiply(*sources), _multiple(factor * other_factor, size), size)
        for source, multiple in zip(sources, (factor * other_shift, shift * other_factor), strict=True):
            if multiple:
                _add_part(parts, source, _multiple(multiple, size), size)
        return Affine(parts, torch.full((size,), shift * other_shift, dtype=torch.float64), self.shape)

    def power(self, exponent: int, packing: Packing) -> Affine:
        """The value to a whole power, by as few products in sequence as there can be."""
        if self._base is not None and self._base[2]:
            self.evaluated(packing)
        root, factor, _ = self._root

        def power(n: int) -> Any:
            if n == 1:
                return root.evaluated(packing)
            left = power(n // 2)
            return packing.multiply(left, left if n % 2 == 0 else power(n - n // 2))

        source, size = power(exponent), len(root._sum[1])
        return Affine([(source, _multiple(factor**exponent, size), size)], torch.zeros(size).double(), self.shape)

    @staticmethod
    def mapped(op: Op, arguments: Sequence[Any], *, is_layer: bool) -> Affine:
        """The result of a call that is affine in all of the values among its arguments."""
        values = list({id(value): value for value in _flat(arguments) if isinstance(value, Affine)}.values())
        zeros = _called(op, arguments, {}, 1)
        bias = _called(op, arguments, {id(value): value._sum[1][None] for value in values}, 1)
        parts: list[Part] = []
        for value in values:
            for source, matrix, size in value._sum[0]:
                rows = torch.eye(size, dtype=torch.float64) if matrix is None else matrix
                changed = _called(op, arguments, {id(value): rows}, size) - zeros
                _add_part(parts, source, changed.flatten(1), size)
        has_layer = is_layer or any(value.has_layer for value in values)
        return Affine(parts, bias.flatten(), bias.shape[1:], has_layer=has_layer)

    def evaluated(self, packing: Packing) -> Any:
        """The source that holds its numbers, for all who need it later."""
        parts, bias = self._sum
        if len(parts) == 1 and parts[0][1] is None and not bool(bias.any()):
            return parts[0][0]
        source = packing.combine(parts, bias)
        size = len(bias)
        self._parts, self._bias = [(source, None, size)], torch.zeros(size, dtype=torch.float64)
        self._has_layer, self._base = False, None
        return source

    @property
    def _root(self) -> tuple[Affine, float, float]:
        return (self, 1.0, 0.0) if self._base is None else self._base

    @property
    def _sum(self) -> tuple[list[Part], Tensor]:
        if self._base is None:
            return self._parts, self._bias
        root, factor, shift = self._base
        parts, bias = root._sum
        scaled: list[Part] = [(s, _multiple(factor, n) if m is None else factor * m, n) for s, m, n in parts]
        return scaled, factor * bias + shift


def _multiple(factor: float, size: int) -> Tensor | None:
    """The matrix of a factor; ``None`` for one."""
    return None if factor == 1 else factor * torch.eye(size, dtype=torch.float64)


def _add_part(parts: list[Part], source: Any, matrix: Tensor | None, size: int) -> None:
    for number, (other, before, _) in enumerate(parts):
        if other is source:
            one = torch.eye(size, dtype=torch.float64)
            parts[number] = (source, (one if before is None else before) + (one if matrix is None else matrix), size)
            return
    parts.append((source, matrix, size))


def _called(op: Op, arguments: Sequence[Any], rows: dict[int, Tensor], count: int, *, alike: bool = False) -> Tensor:
    """The call with ``count`` images in place of each value: its rows ``[count, numbers]``, or zeros.

    ``alike``: with one number in place of each value instead, the first of its row.
    """

    def given(value: Any) -> Any:
        if isinstance(value, Affine):
            numbers = rows.get(id(value))
            if alike:
                return torch.zeros((), dtype=torch.float64) if numbers is None else numbers[0]
            shape = (count, *value.shape)
            return torch.zeros(shape, dtype=torch.float64) if numbers is None else numbers.reshape(shape)
        return [given(entry) for entry in value] if isinstance(value, list) else value

    call = [given(value) for value in arguments]
    if writes_in_place(op.func):  # what is given may be the bias of a value that others still need
        call[0] = call[0].clone()
    tensor: Tensor = results_of(op, call, count)[0]
    return tensor


def _flat(arguments: Any) -> list[Any]:
    return [entry for value in arguments for entry in (_flat(value) if isinstance(value, list | tuple) else [value])]
