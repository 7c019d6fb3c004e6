"""Random numbers that depend on a seed alone and leave the caller's generators as they were."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from reconvene.errors import ArgumentError, ModelError
from reconvene.utils.arguments import check_seed


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed the CPU generators of torch, numpy and Python inside the block; put their states back after it.

    All three, because a user's constructor may draw from any of them. Raises ModelError for what is no seed.
    """
    try:
        seed = check_seed("seed", seed)
    except ArgumentError as error:
        raise ModelError(str(error)) from None
    torch_state, numpy_state, python_state = torch.get_rng_state(), np.random.get_state(), random.getstate()
    # Not torch.manual_seed: that one seeds the accelerators as well, whose states we would not put back.
    torch.default_generator.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)
    try:
        yield
    finally:
        torch.set_rng_state(torch_state)
        np.random.set_state(numpy_state)
        random.setstate(python_state)
