"""Ascending index lists as short text: ``0-5,7,9-12``. A plan stays readable, and its bytes depend on nothing else."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator

from reconvene.errors import PlanError

MOST = 2**23
"""Indices that one text may stand for: the largest dimensions of real weights, vocabularies, have a tenth of it."""
_PIECE = re.compile(r"([0-9]{1,12})(?:-([0-9]{1,12}))?")


def to_text(indices: NDArray[np.int64]) -> str:
    """Ascending indices as ranges."""
    return _text(np.asarray(indices, dtype=np.int64).tobytes())


def from_text(text: str) -> NDArray[np.int64]:
    """Ascending indices from ranges.

    Raises:
        PlanError: the text is not a list of ascending ranges.
    """
    return _indices(text).copy()


def _checked(text: str) -> str:
    try:
        _indices(text)
    except PlanError as error:
        raise ValueError(str(error)) from error
    return text


Ranges = Annotated[str, AfterValidator(_checked)]
"""Ranges in a file, checked when it is read."""


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
    pieces: list[NDArray[np.int64]] = []
    before, count = -1, 0
    for piece in text.split(",") if text else ():
        match = _PIECE.fullmatch(piece)
        if match is None:
            raise PlanError(f"{_short(text)} is not a list of index ranges such as '0-5,7'")
        first, last = int(match[1]), int(match[2] or match[1])
        if first <= before or last < first:
            raise PlanError(f"the index ranges {_short(text)} are not ascending")
        count += last - first + 1
        if count > MOST:  # before they are written out: a few characters may stand for all memory
            raise PlanError(f"the index ranges {_short(text)} stand for more than {MOST:,} channels")
        pieces.append(np.arange(first, last + 1, dtype=np.int64))
        before = last
    return np.concatenate(pieces) if pieces else np.array([], dtype=np.int64)


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:60] + "...")
