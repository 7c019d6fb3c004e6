"""Types of arrays that cross rooms."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Widths = Ints
"""Kept channels of every prunable group, ``[groups]``."""
