"""The criteria by name. To add one: a file with a ``Criterion``, and a line here."""

from __future__ import annotations

from reconvene.errors import UnknownNameError
from reconvene.saliency.grasp import GRASP
from reconvene.saliency.magnitude import MAGNITUDE
from reconvene.saliency.random import RANDOM
from reconvene.saliency.snip import SNIP
from reconvene.saliency.subject import Criterion
from reconvene.saliency.synflow import SYNFLOW

CRITERIA: dict[str, Criterion] = {entry.name: entry for entry in (RANDOM, MAGNITUDE, SNIP, GRASP, SYNFLOW)}


def criterion(name: str) -> Criterion:
    """Look a criterion up; ``UnknownNameError`` lists the known ones."""
    if name not in CRITERIA:
        raise UnknownNameError("criterion", name, CRITERIA)
    return CRITERIA[name]
