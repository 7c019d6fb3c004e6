"""Models that kill the worker that builds them, as the system does where memory ends, or raise an unforeseen error."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from torch import nn


def fragile(marker: str, times: int = 1) -> nn.Module:
    """Kill the process that builds it, unless that is the one ``FLEET_PARENT`` names, the first ``times`` times."""
    path = Path(marker)
    if str(os.getpid()) != os.environ["FLEET_PARENT"]:
        deaths = len(path.read_text()) if path.exists() else 0
        if deaths < times:
            path.write_text("x" * (deaths + 1))
            os._exit(9)
    return _net()


def deadly(folder: str) -> nn.Module:
    """Of all that build it in workers, the first kills its process, also whenever it is tried again; the second raises.

    Which job it is built for say the marks of the jobs that are under way.
    """
    if os.environ["FLEET_PARENT"] not in (str(os.getpid()), "all"):
        marks = Path(folder, "out", ".work").glob("*.begun")
        key = next(path.stem for path in marks if path.read_text() == str(os.getpid()))
        known = Path(folder, "known")
        with known.open("a+") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.seek(0)
            keys = file.read().split()
            if key not in keys:
                file.write(key + "\n")
                keys.append(key)
        if keys.index(key) == 0:
            os._exit(9)
        if keys.index(key) == 1:
            raise KeyError("surprise")
    return _net()


def _net() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 32, 3), nn.ReLU(), nn.Conv2d(32, 32, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 4)
    )
