"""Options that say who does the work."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from tyro.conf import arg

from reconvene.cli.command import UsageError, require_at_least


@dataclass(kw_only=True)
class WorkersOptions:
    """Options that say who does the work of a command that has many pieces of it."""

    heading: ClassVar[str] = "where it runs"

    workers: Annotated[int | None, arg(metavar="N")] = None
    """Processes on this machine. By default 1."""
    ray: Annotated[str | None, arg(metavar="ADDRESS")] = None
    """Work on the Ray cluster at this address (auto: the one of this machine) instead."""

    def check_workers(self) -> None:
        """Raise UsageError for what makes no sense together."""
        require_at_least(self, ("workers",))
        if self.ray is not None and self.workers is not None:
            raise UsageError("--workers are processes here, and --ray works on a cluster. Give one of them")
        if self.ray == "":
            raise UsageError("--ray needs an address: HOST:PORT, or auto for the cluster of this machine")
