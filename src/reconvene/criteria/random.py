"""Random pruning: uniform noise as the score. A mandatory baseline, since it beats clever criteria on some networks."""

from __future__ import annotations

import torch

from reconvene.criteria.base import Criterion, Fixed, Subject


def _begin(subject: Subject) -> Fixed:
    """Uniform scores in (0, 1], drawn from a generator of their own with the subject's seed."""
    generator = torch.Generator().manual_seed(subject.seed)
    return Fixed(1.0 - torch.rand(subject.layout.total, generator=generator))


RANDOM = Criterion("random", _begin)
