"""Class maps: their values are classes."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
import torch

from reconvene.data.dataset import Split
from reconvene.errors import DataError

OBJECTS = ("background", "object")
"""Classes of maps that number objects."""
MOST_CLASSES = 256


def coded_maps(splits: Sequence[Split], values: Collection[int], name: str) -> tuple[tuple[str, ...], list[Split]]:
    """Classes by name, their values, and maps with positions among them, so that masks of 0 and 255 have two classes.

    ``values`` are those of all maps of the data, also of maps that are in no split: a network has an output for each,
    whatever part of the data it is shown.

    Raises DataError: maps with more values than classes can be.
    """
    if len(values) > MOST_CLASSES:
        raise DataError(
            f"the maps of {name} hold {len(values)} values, too many for classes. Where they number objects, call the "
            "column or folder 'instances', or take the task 'instances'."
        )
    ordered = np.array(sorted(values))
    coded = [torch.from_numpy(np.searchsorted(ordered, split.targets.numpy()).astype(np.int32)) for split in splits]
    pairs = zip(splits, coded, strict=True)
    return tuple(str(value) for value in ordered), [Split(split.images, targets) for split, targets in pairs]
