"""Layers as linear maps: rows of what a layer reads and gives, and the weights that map one to the other best."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import product
from math import prod
from typing import Any, Protocol, Self

import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

# Penalties on the change of weights that are tried, as shares of the mean energy of an input.
PENALTIES = (1e-6, 1e-4, 1e-2, 1.0)
# Columns of a block of second moments: half as many products in all as without blocks, and each still large.
_BLOCK = 512


@dataclass(frozen=True, eq=False)
class Positions:
    """Which outputs of a layer are looked at: the example of each, and its place in every spatial dimension."""

    example: Tensor
    place: tuple[Tensor, ...]

    @classmethod
    def drawn(cls, shape: tuple[int, ...], count: int, seed: int) -> Positions:
        """At most ``count`` positions of ``[N, *spatial]``, each at most once, in order."""
        total = prod(shape)
        order = torch.randperm(total, generator=torch.Generator().manual_seed(seed))[:count].sort().values
        index = torch.unravel_index(order, shape)
        return cls(index[0], tuple(index[1:]))


def refusal(module: nn.Module) -> str | None:
    """Why a layer cannot be written as a linear map of rows, if it cannot."""
    if isinstance(module, nn.Linear):
        return None
    if isinstance(module, _ConvTransposeNd):
        if module.groups != 1:
            return "it is a transposed convolution with groups"
        plain = set(module.dilation) == {1} and not any(module.padding)
        plain = plain and not any(module.output_padding) and tuple(module.stride) == tuple(module.kernel_size)
        return None if plain else "its windows overlap"
    if isinstance(module, _ConvNd):
        return None
    return "it is not a product with a weight"


def output_rows(module: nn.Module, output: Tensor, positions: Positions | None) -> Tensor:
    """What the layer gives, ``[rows, out]``; of a transposed convolution a row is a window, ``[rows, out, window]``."""
    if isinstance(module, nn.Linear):
        rows = output.reshape(-1, output.shape[-1])
        return rows if positions is None else rows[positions.example.to(rows.device)]
    assert positions is not None
    output = _with_one_batch(module, output)
    if isinstance(module, _ConvTransposeNd):
        return _windows(output, positions, module.kernel_size, module.stride, (1,) * len(positions.place))
    return output.movedim(1, -1)[(positions.example, *positions.place)]


def input_rows(module: nn.Module, value: Tensor, positions: Positions | None) -> Tensor:
    """What the layer reads for the same rows, ``[rows, in]``, in the order of its weight's inputs (channels first)."""
    if isinstance(module, nn.Linear):
        return output_rows(module, value, positions)
    assert positions is not None
    value = _with_one_batch(module, value)
    if isinstance(module, _ConvTransposeNd):
        return value.movedim(1, -1)[(positions.example, *positions.place)]
    assert isinstance(module, _ConvNd)
    padded = pad(value, _padding(module), mode="constant" if module.padding_mode == "zeros" else module.padding_mode)
    return _windows(padded, positions, module.kernel_size, module.stride, module.dilation).flatten(1)


def spatial_shape(module: nn.Module, output: Tensor) -> tuple[int, ...]:
    """The shape ``[N, *spatial]`` of which ``Positions`` are drawn."""
    if isinstance(module, nn.Linear):
        return (output.numel() // output.shape[-1],)
    output = _with_one_batch(module, output)
    if isinstance(module, _ConvTransposeNd):
        sizes = (size // step for size, step in zip(output.shape[2:], module.stride, strict=True))
        return (output.shape[0], *sizes)
    return (output.shape[0], *output.shape[2:])


def _with_one_batch(module: nn.Module, value: Tensor) -> Tensor:
    """``[N, channels, *spatial]``: layers of several time steps (SpikingJelly's) are given ``[T, N, ...]``."""
    assert isinstance(module, _ConvNd)
    return value.flatten(0, -2 - len(module.kernel_size)) if value.ndim > 2 + len(module.kernel_size) else value


def _windows(value: Tensor, positions: Positions, kernel: Any, stride: Any, dilation: Any) -> Tensor:
    """The window of every position, ``[rows, channels, window]``."""
    channels_last = value.movedim(1, -1)
    pieces = []
    for offset in product(*(range(size) for size in kernel)):
        place = tuple(
            at * step + shift * gap
            for at, step, shift, gap in zip(positions.place, stride, offset, dilation, strict=True)
        )
        pieces.append(channels_last[(positions.example, *place)])
    return torch.stack(pieces, dim=-1)


def _padding(module: _ConvNd) -> list[int]:
    """Padding of a convolution as ``pad`` takes it: the last dimension first."""
    if module.padding == "valid":
        sides = [(0, 0) for _ in module.kernel_size]
    elif module.padding == "same":
        totals = [gap * (size - 1) for gap, size in zip(module.dilation, module.kernel_size, strict=True)]
        sides = [(total // 2, total - total // 2) for total in totals]
    else:
        sides = [(int(size), int(size)) for size in module.padding]
    return [size for side in reversed(sides) for size in side]


def fit_weights(
    inputs: Tensor, outputs: Tensor, weight: Tensor, *, centred: bool, shared: int = 1
) -> tuple[Tensor, float]:
    """Weights ``[in, out]`` near ``weight`` for which ``inputs @ weights`` is nearest to ``outputs``.

    The change of the weights is penalised (ridge regression around ``weight``), by what predicts one half of the rows
    best from the other; where no penalty predicts better than the weights as they are, these stay. ``centred``: means
    are left out, for layers whose bias, or whose norm, takes them. ``shared``: so many outputs in a row have one bias,
    as all places in the window of a transposed convolution.

    Returns:
        the weights, and the share of the error that they take away, measured on the half not fitted.
    """
    half = len(inputs) // 2
    error = outputs - inputs @ weight
    kind: type[_Problem] = _Rows if len(inputs) < inputs.shape[1] and shared == 1 else _Moments
    first, second = (kind.of(inputs[rows], error[rows], centred, shared) for rows in (slice(half), slice(half, None)))
    gains = [second.gain(first.change(penalty)) for penalty in PENALTIES] if half else [0.0]
    best = max(range(len(gains)), key=lambda number: gains[number])
    if gains[best] <= 0 or not second.energy:
        return weight, 0.0
    return weight + first.joined(second).change(PENALTIES[best]), gains[best] / second.energy


class _Problem(Protocol):
    """Inputs ``[rows, in]`` and errors ``[rows, out]`` of some rows, less their means where they are ``centred``."""

    @property
    def energy(self) -> float:
        """The squared error of the rows."""

    @classmethod
    def of(cls, inputs: Tensor, error: Tensor, centred: bool, shared: int) -> Self: ...

    def joined(self, other: Self) -> Self:
        """The problem of both sets of rows."""

    def change(self, penalty: float) -> Tensor:
        """The change of weights of the least squared error under a penalty."""

    def gain(self, change: Tensor) -> float:
        """By how much a change of weights lowers the squared error of these rows."""


@dataclass(frozen=True, eq=False)
class _Rows:
    """Fewer rows than inputs: products of one row with another, ``[rows, rows]``, tell as much as second moments.

    ``X' (X X' + p I)^-1 E`` is the solution of ``(X' X + p I) W = X' E`` (Saunders, Gammerman and Vovk 1998). 512
    images before a linear layer of 50,000 inputs need a matrix of 512 x 512, where moments take 20 GB.
    """

    inputs: Tensor
    error: Tensor
    centred: bool

    @classmethod
    def of(cls, inputs: Tensor, error: Tensor, centred: bool, shared: int) -> _Rows:
        assert shared == 1, "transposed convolutions have few inputs"
        return cls(inputs, error, centred)

    @cached_property
    def energy(self) -> float:
        return float(self._error.square().sum())

    @cached_property
    def _inputs(self) -> Tensor:
        return self._less_means(self.inputs)

    @cached_property
    def _error(self) -> Tensor:
        return self._less_means(self.error)

    @cached_property
    def _products(self) -> Tensor:
        return _gram(self._inputs.mT)

    def joined(self, other: _Rows) -> _Rows:
        return _Rows(torch.cat([self.inputs, other.inputs]), torch.cat([self.error, other.error]), self.centred)

    def change(self, penalty: float) -> Tensor:
        scale = (self._products.trace() / self.inputs.shape[1]).clamp(min=torch.finfo(self.inputs.dtype).tiny)
        damping = penalty * scale * torch.eye(len(self.inputs), dtype=self.inputs.dtype).to(self.inputs)
        return self._inputs.mT @ _solved(self._products + damping, self._error)

    def gain(self, change: Tensor) -> float:
        given = self._inputs @ change
        return float((2 * self._error - given).mul(given).sum())

    def _less_means(self, rows: Tensor) -> Tensor:
        return rows - rows.mean(dim=0) if self.centred and len(rows) else rows


@dataclass(frozen=True, eq=False)
class _Moments:
    """Second moments of inputs and errors around their means, which are zero where nothing is centred.

    ``shared`` columns of errors in a row have one intercept; what their means differ by is left to the weights.
    """

    rows: int
    input_mean: Tensor
    error_mean: Tensor
    inputs: Tensor
    mixed: Tensor
    energy: float
    shared: int

    @classmethod
    def of(cls, inputs: Tensor, error: Tensor, centred: bool, shared: int) -> _Moments:
        input_mean, error_mean = inputs.new_zeros(inputs.shape[1]), error.new_zeros(error.shape[1])
        if centred and len(inputs):
            input_mean, error_mean = inputs.mean(dim=0), error.mean(dim=0)
            inputs, error = inputs - input_mean, error - error_mean
        energy = float(error.square().sum() + len(inputs) * _spread(error_mean, shared).square().sum())
        return cls(len(inputs), input_mean, error_mean, _gram(inputs), inputs.mT @ error, energy, shared)

    def joined(self, other: _Moments) -> _Moments:
        """The moments of both sets of rows, without reading them again (Chan, Golub and LeVeque 1983)."""
        rows = self.rows + other.rows
        away, error_away = other.input_mean - self.input_mean, other.error_mean - self.error_mean
        share = other.rows / rows
        weight = self.rows * share
        return _Moments(
            rows,
            self.input_mean + share * away,
            self.error_mean + share * error_away,
            self.inputs + other.inputs + weight * away.outer(away),
            self.mixed + other.mixed + weight * away.outer(error_away),
            self.energy + other.energy + weight * float(error_away.square().sum()),
            self.shared,
        )

    def change(self, penalty: float) -> Tensor:
        scale = self.inputs.diagonal().mean().clamp(min=torch.finfo(self.inputs.dtype).tiny)
        damping = penalty * scale * torch.eye(len(self.inputs), dtype=self.inputs.dtype).to(self.inputs)
        change = _solved(self.inputs + damping, self.mixed)
        if self.shared == 1:
            return change
        # The best common intercept is the mean of those that each column would have alone.
        apart = self.input_mean @ change + _spread(self.error_mean - self.input_mean @ change, self.shared)
        inputs = self.inputs + self.rows * self.input_mean.outer(self.input_mean)
        return _solved(inputs + damping, self.mixed + self.rows * self.input_mean.outer(apart))

    def gain(self, change: Tensor) -> float:
        gain = float((2 * self.mixed - self.inputs @ change).mul(change).sum())
        before, after = self.error_mean, self.error_mean - self.input_mean @ change
        left = (_spread(mean, self.shared).square().sum() for mean in (before, after))
        return gain + self.rows * float(next(left) - next(left)) if self.shared > 1 else gain


def _spread(means: Tensor, shared: int) -> Tensor:
    """How far the mean of each column is from the intercept of its ``shared`` columns: zero where it has its own."""
    groups = means.reshape(-1, shared)
    return (groups - groups.mean(dim=1, keepdim=True)).flatten()


def _solved(matrix: Tensor, right: Tensor) -> Tensor:
    """The solution for a positive definite matrix, and zero for another one."""
    factor, trouble = torch.linalg.cholesky_ex(matrix)
    return torch.zeros_like(right) if trouble else torch.cholesky_solve(right, factor)


def _gram(rows: Tensor) -> Tensor:
    """``rows.mT @ rows`` ``[in, in]``: blocks on and below the diagonal are computed, the others mirror them."""
    width = rows.shape[1]
    gram = rows.new_empty(width, width)
    for start in range(0, width, _BLOCK):
        block = slice(start, start + _BLOCK)
        below = rows[:, start:].mT @ rows[:, block]
        gram[start:, block] = below
        gram[block, start:] = below.mT
    return gram
