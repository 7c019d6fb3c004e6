"""Maps as pictures."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from reconvene.tasks.base import Picture

GOLDEN = 0.61803398875
"""Steps of this share of the colour circle never come close to an earlier colour (the golden ratio)."""


def coloured(numbers: Tensor) -> Picture:
    """A colour for each number of a map ``[H, W]``; black for 0. The same number has the same colour everywhere."""
    values = numbers.cpu().numpy().astype(np.int64)
    hue = (values * GOLDEN) % 1.0
    channels = [np.clip(np.abs((hue * 6 + shift) % 6 - 3) - 1, 0, 1) for shift in (0, 4, 2)]
    pixels = (55 + 200 * np.stack(channels, axis=-1)).astype(np.uint8)
    pixels[values == 0] = 0
    return pixels
