"""Magnitude: ``|w|``. Strong at mild densities, then a cliff, as layers with small initial scale vanish whole."""

from __future__ import annotations

from reconvene.criteria.base import Criterion, Fixed, Subject


def _begin(subject: Subject) -> Fixed:
    """Absolute weights."""
    return Fixed(subject.layout.flatten(dict(subject.model.named_parameters())).abs_().cpu())


MAGNITUDE = Criterion("magnitude", _begin)
