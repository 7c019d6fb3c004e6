"""A model whose first builder in another process dies, as one does that the system kills."""

from __future__ import annotations

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
    return nn.Sequential(
        nn.Conv2d(3, 32, 3), nn.ReLU(), nn.Conv2d(32, 32, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 4)
    )
