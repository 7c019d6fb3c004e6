"""Symmetric quantisation of weights, one scale an output channel: ``w = scale * q``, ``q`` whole and around zero.

Integers of ``p`` bits go from ``-(2^(p-1) - 1)`` to ``2^(p-1) - 1``, so that zero is exact and the zero point is zero,
as int8 kernels have it; with two bits they are -1, 0 and 1. Rounding is to even, as in ONNX and IEEE 754. Up to
``WIDEST_SEARCHED`` bits the scale is the one of the least squared error, above it the largest weight decides.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from reconvene.utils.arrays import Ints

WIDEST_SEARCHED = 4
"""Bits up to which the largest weight makes a bad scale: relative error .55 against .19 with two bits."""
# Shares of the scale of the largest weight that a search begins from; least squares refines the best one.
_SHARES = tuple(0.9**step for step in range(28))
_REFINEMENTS = 3
# Squared error of Gaussian weights relative to their squares, measured: the noise that an untrained layer gets. That of
# eight bits is larger for channels of more weights, whose largest weight is larger.
_NOISE = {2: 0.19, 3: 0.046, 4: 0.0124, 8: 5.6e-5}


@dataclass(frozen=True, eq=False)
class QuantisedWeight:
    """A weight as whole numbers: ``integers`` int8 in the shape of the weight, ``scale`` float32 ``[channels]``.

    Channels lie along ``axis``.
    """

    integers: Tensor
    scale: Tensor
    axis: int

    @property
    def values(self) -> Tensor:
        """What the integers stand for, float32."""
        shape = [1] * self.integers.ndim
        shape[self.axis] = -1
        return self.integers.to(torch.float32) * self.scale.reshape(shape)


def largest(bits: int) -> int:
    """The largest integer of so many bits.

    >>> [largest(bits) for bits in (2, 4, 8)]
    [1, 7, 127]
    """
    return int(2 ** (bits - 1) - 1)


def quantise(weight: Tensor, bits: int | Ints, *, axis: int = 0, scale: Tensor | None = None) -> QuantisedWeight:
    """Quantise a weight of any shape, each channel along ``axis`` with its own scale.

    Args:
        weight: real numbers.
        bits: 2 to 8, one number or one a channel, int64 ``[channels]``.
        axis: dimension of the output channels.
        scale: of every channel, ``[channels]``; by default it is searched.

    A channel of zeros has a scale of 1. Same weight, same result.
    """
    rows = weight.detach().to(torch.float32).movedim(axis, 0)
    flat = rows.reshape(len(rows), -1)
    widths = torch.as_tensor(bits, dtype=torch.int64, device=flat.device).expand(len(rows))
    limit = (2.0 ** (widths - 1) - 1)[:, None]
    if scale is not None:
        integers = _rounded(flat, scale[:, None], limit).to(torch.int8).reshape(rows.shape).movedim(0, axis)
        return QuantisedWeight(integers.contiguous(), scale.clone(), axis)
    peak = flat.abs().amax(dim=1, keepdim=True) if flat.shape[1] else flat.new_zeros(len(rows), 1)
    steps = torch.where(peak > 0, peak / limit, torch.ones_like(peak))
    searched = ((widths <= WIDEST_SEARCHED) & (peak[:, 0] > 0)).nonzero()[:, 0]
    if len(searched):
        steps[searched] = _least_error(flat[searched], steps[searched], limit[searched])
    integers = _rounded(flat, steps, limit).to(torch.int8).reshape(rows.shape).movedim(0, axis)
    return QuantisedWeight(integers.contiguous(), steps[:, 0].clone(), axis)


def noise_ratio(bits: int) -> float:
    """Squared error of Gaussian weights of so many bits, relative to their squares; with zero bits all is lost.

    Between the measured numbers of bits it falls by a constant factor a bit.
    """
    if bits == 0:
        return 1.0
    bit_widths = sorted(_NOISE)
    logs = [np.log2(_NOISE[b]) for b in bit_widths]
    return float(2.0 ** np.interp(bits, bit_widths, logs))


def _least_error(rows: Tensor, scale: Tensor, limit: Tensor) -> Tensor:
    """The scale of the least squared error of every row, ``[rows, 1]``."""
    best, least = scale.clone(), torch.full_like(scale, torch.inf)

    def offer(candidate: Tensor) -> None:
        error = (_rounded(rows, candidate, limit) * candidate - rows).square().sum(dim=1, keepdim=True)
        better = error < least
        best[better], least[better] = candidate[better], error[better]

    for share in _SHARES:
        offer(scale * share)
    for _ in range(_REFINEMENTS):
        integers = _rounded(rows, best, limit)
        norm = integers.square().sum(dim=1, keepdim=True)
        fitted = (rows * integers).sum(dim=1, keepdim=True) / norm.clamp_min(1.0)
        offer(torch.where(fitted > 0, fitted, best))
    return best


def _rounded(rows: Tensor, scale: Tensor, limit: Tensor) -> Tensor:
    return torch.maximum(torch.minimum(torch.round(rows / scale), limit), -limit)
