"""Class maps: their values are classes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from reconvene.data.dataset import Split
from reconvene.errors import DataError

OBJECTS = ("background", "object")
"""Classes of maps that number objects."""
MOST_CLASSES = 256


def coded_maps(splits: Sequence[Split], name: str) -> tuple[tuple[str, ...], list[Split]]:
    """Classes by name, their values, and maps with positions among them, so that masks of 0 and 255 have two classes.

    Raises DataError: maps with more values than classes can be.
    """
    values = np.unique(np.concatenate([np.unique(split.targets.numpy()) for split in splits]))
    if len(values) > MOST_CLASSES:
        raise DataError(
            f"the maps of {name} hold {len(values)} values, too many for classes. Where they number objects, call the "
            "column or folder 'instances', or take the task 'instances'."
        )
    coded = [torch.from_numpy(np.searchsorted(values, split.targets.numpy()).astype(np.int32)) for split in splits]
    pairs = zip(splits, coded, strict=True)
    return tuple(str(value) for value in values), [Split(split.images, targets) for split, targets in pairs]
