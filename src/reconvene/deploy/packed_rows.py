"""Weights of few bits in files of any runtime: which weight a tensor is, its integers, and if the file is right."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reconvene.deploy.planned import PackedWeight
from reconvene.errors import ExportError, VerificationError

_Array = NDArray[Any]
_EXACT = 1e-3
"""Largest difference of a weight and the integers that stand for it, as a share of the largest of its channel."""

WEIGHT_TOLERANCE = 1e-4
"""Largest error of a file whose weights alone are rounded, as a share of the largest output."""


def check_weights(expected: Iterable[_Array], outputs: Iterable[_Array]) -> None:
    """Raise VerificationError where packed weights do not compute what those of the network do, within 1e-4."""
    for reference, values in zip(expected, outputs, strict=True):
        error = np.abs(reference - values).max(initial=0) / max(float(np.abs(reference).max(initial=0)), 1e-12)
        if not error <= WEIGHT_TOLERANCE:
            raise VerificationError(
                f"the packed weights compute something else than the network with rounded weights: relative error "
                f"{error:.1e}, at most {WEIGHT_TOLERANCE:.0e}. Please report it; quantize='int8' does not pack"
            )


def four_bit_pairs(integers: _Array) -> NDArray[np.uint8]:
    """Integers from -8 to 7 as two a byte, the first in the lower half; a last one alone has a zero beside it."""
    halves = integers.astype(np.uint8).reshape(-1) & 15
    pairs = np.concatenate([halves, np.zeros(len(halves) % 2, np.uint8)]).reshape(-1, 2)
    return np.asarray(pairs[:, 0] | pairs[:, 1] << 4, np.uint8)


def channels_below(weights: Mapping[str, PackedWeight], bits: int) -> int:
    """How many channels the plan gives fewer bits."""
    return sum(int((weight.layer.bits < bits).sum()) for weight in weights.values())


def rows_of(packed: PackedWeight, rows: _Array) -> slice | None:
    """Which output channels of a weight these rows are; None where they are none of it."""
    values = np.moveaxis(packed.quantised.values.cpu().numpy(), packed.quantised.axis, 0)
    if values.shape[1:] != rows.shape[1:] or len(rows) > len(values):
        return None
    limit = _EXACT * max(float(np.abs(rows).max(initial=0)), 1e-12)
    for start in range(len(values) - len(rows) + 1):
        if np.abs(values[start] - rows[0]).max() <= limit:
            part = slice(start, start + len(rows))
            if np.abs(values[part] - rows).max() <= limit:
                return part
    return None


def folded_integers(packed: PackedWeight, folded: _Array, axis: int, name: str) -> tuple[_Array, _Array]:
    """Integers and float64 scales of a weight that took in the norm behind it, channels along ``axis``.

    A norm multiplies a channel by a number: that goes into the scale, and its sign into the integers.
    """
    quantised = packed.quantised
    integers = np.moveaxis(quantised.integers.cpu().numpy(), quantised.axis, 0)
    values = np.moveaxis(quantised.values.cpu().numpy().astype(np.float64), quantised.axis, 0)
    rows = np.moveaxis(folded, axis, 0).astype(np.float64)
    if rows.shape != values.shape:
        raise ExportError(f"{name} cannot be packed: the file has it in the shape {list(folded.shape)}")
    flat, targets = values.reshape(len(values), -1), rows.reshape(len(values), -1)
    place = np.abs(flat).argmax(axis=1)[:, None]
    peak, target = np.take_along_axis(flat, place, 1)[:, 0], np.take_along_axis(targets, place, 1)[:, 0]
    factor = np.divide(target, peak, out=np.ones_like(peak), where=peak != 0)
    error = np.abs(flat * factor[:, None] - targets).max(axis=1, initial=0)
    if (error > _EXACT * np.abs(targets).max(axis=1, initial=0) + 1e-12).any():
        raise ExportError(f"{name} cannot be packed: the file has other weights than the network")
    shape = (-1, *[1] * (integers.ndim - 1))
    signs = np.sign(factor).astype(np.int8).reshape(shape)
    scale = quantised.scale.cpu().numpy().astype(np.float64) * np.abs(factor)
    return np.moveaxis(integers * signs, 0, axis), np.where(scale > 0, scale, 1e-8)
