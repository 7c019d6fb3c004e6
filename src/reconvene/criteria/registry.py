"""The criteria by name. To add one: a file with a ``Criterion``, and a line here."""

from __future__ import annotations

from reconvene.criteria.base import Criterion
from reconvene.criteria.grasp import GRASP
from reconvene.criteria.magnitude import MAGNITUDE
from reconvene.criteria.random import RANDOM
from reconvene.criteria.snip import SNIP
from reconvene.criteria.synflow import SYNFLOW
from reconvene.errors import UnknownNameError

CRITERIA: dict[str, Criterion] = {entry.name: entry for entry in (RANDOM, MAGNITUDE, SNIP, GRASP, SYNFLOW)}


def criterion(name: str) -> Criterion:
    """Look a criterion up; ``UnknownNameError`` lists the known ones."""
    if name not in CRITERIA:
        raise UnknownNameError("criterion", name, CRITERIA)
    return CRITERIA[name]
