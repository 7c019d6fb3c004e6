"""Ascending index lists as short text: ``0-5,7,9-12``. A plan stays readable, and its bytes depend on nothing else."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from reconvene.errors import PlanError


def to_text(indices: NDArray[np.int64]) -> str:
    """Ascending indices as ranges."""
    return _text(np.asarray(indices, dtype=np.int64).tobytes())


def from_text(text: str) -> NDArray[np.int64]:
    """Ascending indices from ranges.

    Raises:
        PlanError: the text is not a list of ascending ranges.
    """
    return _indices(text).copy()


# The tensors of a group keep the same channels, so one plan writes and reads each list many times.
@lru_cache(maxsize=4096)
def _text(data: bytes) -> str:
    indices = np.frombuffer(data, dtype=np.int64)
    if not len(indices):
        return ""
    breaks = np.flatnonzero(np.diff(indices) != 1)
    first = indices[np.concatenate([[0], breaks + 1])].tolist()
    last = indices[np.concatenate([breaks, [-1]])].tolist()
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in zip(first, last, strict=True))


@lru_cache(maxsize=4096)
def _indices(text: str) -> NDArray[np.int64]:
    indices: list[int] = []
    try:
        for piece in text.split(",") if text else ():
            first, _, last = piece.partition("-")
            indices.extend(range(int(first), int(last or first) + 1))
    except (ValueError, AttributeError) as error:
        raise PlanError(f"{text!r} is not a list of index ranges such as '0-5,7'") from error
    whole = np.array(indices, dtype=np.int64)
    if (np.diff(whole) <= 0).any():
        raise PlanError(f"the index ranges {text!r} are not ascending")
    return whole
