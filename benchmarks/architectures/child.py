"""What the process of one model runs."""

from __future__ import annotations

import contextlib
import resource
import warnings
from multiprocessing.connection import Connection
from typing import Any

from architectures import all_architectures, other_architectures
from architectures.results import Options


def judge(name: str, results: Connection, options: Options) -> None:
    """Take one architecture through its stages and send the record to the parent before each."""
    from architectures.stages import sweep_architecture  # here, since the parent only starts this function

    warnings.simplefilter("ignore")

    def tell(record: dict[str, Any]) -> None:
        record["peak_rss_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        results.send(record)

    with contextlib.closing(results):
        sweep_architecture((all_architectures() | other_architectures())[name], tell, options)
