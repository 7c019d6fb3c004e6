"""What workers do in tests of the pool: at the top of a module, since processes of their own look it up."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from reconvene.utils.executors import in_processes


def write_or_die(job: dict[str, Any], work: str) -> dict[str, bytes]:
    """Leave a file under the key of the job, and end the process where the job says so."""
    (Path(work) / f"{job['key']}.was-here").touch()
    if job.get("dies"):
        os._exit(1)
    return {"name": job["key"].encode()}


def sleep_long(job: dict[str, Any], work: str) -> dict[str, bytes]:
    """Says which process it is, and does not end."""
    (Path(work) / f"{job['key']}.process").write_text(f"{os.getpid()}\n")
    time.sleep(300)
    return {}


def two_sleepers(work: str) -> None:
    """Both at once, in processes of their own."""
    list(in_processes(sleep_long, [{"key": "a"}, {"key": "b"}], work, workers=2))
