"""What the process of one model runs."""

from __future__ import annotations

import contextlib
import resource
import warnings
from multiprocessing.connection import Connection
from typing import Any

from architectures import all_architectures


def judge(name: str, results: Connection) -> None:
    """Prove one architecture and tell the parent after every stage."""
    from architectures.proving import prove_architecture  # here, since the parent only starts this function

    warnings.simplefilter("ignore")

    def tell(record: dict[str, Any]) -> None:
        record["peak_rss_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        results.send(record)

    with contextlib.closing(results):
        prove_architecture(all_architectures()[name], tell)
