"""Keep exactly the highest scores of a flat buffer, much faster than sorting it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from reconvene.errors import CriterionError

SAMPLE_STRIDE = 127  # prime, so that it does not step in time with channel counts
BAND_SIGMAS = 4.0
PIECE = 1 << 16
_SMALL = 100_000  # scores that are partitioned faster than sampled
_TOLERANCE = 2e-7  # float32 sums of flow are right to about 1e-7

Exact = Callable[[NDArray[np.int64]], NDArray[np.float64]]
"""Scores in float64 at some places of the flat buffer."""


def kept(density: float, total: int) -> int:
    """How many of ``total`` weights a density keeps: rounded to the nearest, half up, and at least one."""
    if not 0.0 < density <= 1.0:
        raise CriterionError(f"density must lie in (0, 1], found {density!r}. 0.1 keeps a tenth of the weights.")
    return max(1, math.floor(density * total + 0.5))


def schedule(density: float, rounds: int) -> list[float]:
    """Densities after each pruning round: ``density ** (k / rounds)`` for k = 1 .. rounds (2006.05467, algorithm 1)."""
    if rounds < 1:
        raise CriterionError(f"rounds must be at least 1, found {rounds}.")
    kept(density, 1)
    return [density if k == rounds else density ** (k / rounds) for k in range(1, rounds + 1)]


def keep_largest(scores: Tensor, keep: int, *, alive: Tensor | None = None, exact: Exact | None = None) -> Tensor:
    """Mask ``[N]`` (bool, CPU) of exactly the ``keep`` largest of ``scores [N]``, among those where ``alive`` holds.

    Equal scores are kept in the order of the buffer, so the result does not depend on any sorting algorithm. Scores
    that float32 cannot tell from the threshold are computed anew by ``exact``, if given. ``keep`` must not exceed the
    number alive.
    """
    values = scores.detach().cpu().numpy()
    mask = _largest(values, keep, exact)
    if alive is not None and bool((mask > alive.numpy()).any()):  # something dead ranks as high as what is kept
        mask = _largest(np.where(alive.numpy(), values, -np.inf), keep, exact)
    return torch.from_numpy(mask)


def with_floor(
    mask: Tensor,
    scores: Tensor,
    sizes: Sequence[int],
    keep: int,
    *,
    alive: Tensor | None = None,
    exact: Exact | None = None,
) -> Tensor:
    """The mask of ``keep_largest`` where it empties no layer; else the best weight of each, and the largest others.

    The total is ``keep`` in any case. Fewer than one weight a layer cannot reach all of them: the mask stays as it is.

    Args:
        mask: of ``keep_largest``, ``[N]`` (bool).
        scores: ``[N]``; of equal ones the first is the best.
        sizes: elements of each layer, which lie one behind the other.
        keep: how many weights stay in all.
        alive: ``[N]`` (bool), what may stay; a layer where nothing is alive keeps nothing.
    """
    if keep <= len(sizes) or all(piece.any() for piece in np.split(mask.numpy(), np.cumsum(sizes)[:-1])):
        return mask  # numpy stops at the first that is kept, torch reads on
    values = scores.detach().cpu().clone()
    start = 0
    for size in sizes:
        layer = slice(start, start + size)
        living = values[layer] if alive is None else values[layer].masked_fill(~alive[layer], -math.inf)
        best = int(living.argmax())
        if alive is None or bool(alive[start + best]):
            values[start + best] = math.inf
        start += size
    return keep_largest(values, keep, alive=alive, exact=exact)


def _largest(values: NDArray[np.floating], keep: int, exact: Exact | None) -> NDArray[np.bool_]:
    """A sample brackets the threshold and one pass proves it; a bracket that missed costs a partition of everything."""
    if values.size > _SMALL:
        sample = values[::SAMPLE_STRIDE]
        sample = sample[sample != 0]  # masked weights crowd at zero: what matters is the order of the others
        proved = _around(values, keep, *_bracket(sample, keep / SAMPLE_STRIDE), exact)
        if proved is not None:
            return proved
    mask = np.zeros(values.size, dtype=np.bool_)
    mask[_best(values, np.arange(values.size), keep, exact)] = True
    return mask


def _bracket(sample: NDArray[np.floating], rank: float) -> tuple[float, float]:
    """Values a safe number of ranks below and above ``rank`` in a sample (0: the largest); infinite beyond its ends."""
    margin = BAND_SIGMAS * math.sqrt(max(1.0, rank)) + 8
    below = sample.size - 1 - math.ceil(rank + margin)
    above = max(0, sample.size - 1 - math.floor(rank - margin))
    inside = [index for index in (below, above) if 0 <= index < sample.size]
    ordered = np.partition(sample, inside) if inside else sample
    return (
        float(ordered[below]) if below >= 0 else -math.inf,
        float(ordered[above]) if above < sample.size else math.inf,
    )


def _around(
    values: NDArray[np.floating], keep: int, low: float, high: float, exact: Exact | None
) -> NDArray[np.bool_] | None:
    """The mask, or None unless the ``keep``-th largest value lies in ``[low, high]`` (above zero if that is infinite).

    The buffer is read once, in pieces that stay in the processor's cache while they are compared with both ends.
    """
    if low == -math.inf and high <= 0:
        return None
    mask = np.empty(values.size, dtype=np.bool_)
    above, candidates = 0, []
    for start in range(0, values.size, PIECE):
        piece, over = values[start : start + PIECE], mask[start : start + PIECE]
        np.greater(piece, high, out=over)
        above += int(np.count_nonzero(over))
        band = piece > 0 if low == -math.inf else piece >= low
        band ^= over
        candidates.append(np.flatnonzero(band) + start)
    places = np.concatenate(candidates)
    if not above < keep <= above + places.size:
        return None
    mask[_best(values[places], places, keep - above, exact)] = True
    return mask


def _best(values: NDArray[np.floating], places: NDArray[np.int64], keep: int, exact: Exact | None) -> NDArray[np.int64]:
    """Those of ``places`` (in order) where the ``keep`` largest of their ``values`` are."""
    threshold = np.partition(values, values.size - keep)[values.size - keep]
    blur = _TOLERANCE * float(threshold) if exact is not None and threshold > 0 else 0.0
    sure = values > threshold + blur
    contested = places[(values >= threshold - blur) & ~sure]
    missing = keep - int(np.count_nonzero(sure))
    if exact is not None and blur and missing < contested.size:
        contested = contested[np.argsort(-exact(contested), kind="stable")]
    return np.concatenate([places[sure], contested[:missing]])
