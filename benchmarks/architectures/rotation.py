"""Which of many networks a sweep takes: a tenth by the date, so that ten days in a row take all of them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from datetime import date

PARTS = 10


def tenth(names: Iterable[str], day: date) -> list[str]:
    """The names of this day, mixed: the order of a digest spreads every family over the ten days."""
    mixed = sorted(names, key=lambda name: (hashlib.sha256(name.encode()).hexdigest(), name))
    return mixed[day.toordinal() % PARTS :: PARTS]
