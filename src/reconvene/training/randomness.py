"""Random state while training: a function of seed and step inside, the caller's own again outside."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from reconvene.structure.restore import kept_random_state


def seed_step(device: torch.device, *numbers: int) -> None:
    """Make dropout and its like a function of seed, step and process, which is why checkpoints hold no random state."""
    seed = int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0]) >> 1
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)


@contextmanager
def own_randomness(device: torch.device) -> Iterator[None]:
    """Give the caller's random state back afterwards; on CUDA also ask for algorithms that repeat."""
    if device.type != "cuda":
        with kept_random_state():
            yield
        return
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    with kept_random_state([device]), torch.backends.cudnn.flags(benchmark=False, deterministic=True):
        torch.use_deterministic_algorithms(True, warn_only=True)
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(before[0], warn_only=before[1])
