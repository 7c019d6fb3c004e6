"""``reconvene fleet fleet.yaml``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

from tyro.conf import Positional, arg

from reconvene.cli.command import Answer, Command, Importing
from reconvene.cli.workers_options import WorkersOptions
from reconvene.errors import FleetError
from reconvene.utils.progress import note


@dataclass(kw_only=True)
class FleetCommand(WorkersOptions, Importing, Command):
    """Make a network for every device of a fleet. Stopped at any moment, the same command makes what is missing."""

    command_lines: ClassVar[tuple[str, ...]] = ("reconvene fleet fleet.yaml -o out/ --workers 2",)
    heading: ClassVar[str] = "where it runs"

    file: Positional[Annotated[Path, arg(metavar="FLEET")]]
    """A YAML or TOML file: devices with budgets, architectures, and what to do with each. See docs/fleet.md."""
    output: Annotated[Path | None, arg(aliases=["-o"], metavar="DIR")] = None
    """Where artifacts and the page go. By default out/NAME-OF-THE-FILE."""
    workers: Annotated[int | None, arg(metavar="N")] = None
    """Processes on this machine. By default 1 for a fleet that trains, else one per core, at most 4."""

    def run(self) -> Answer:
        """Plan, make what is missing, write the page."""
        self.check_workers()
        from reconvene.fleet import read_fleet, run_fleet, write_page

        fleet = read_fleet(self.file)
        result = run_fleet(
            fleet,
            self.output or Path("out") / self.file.stem,
            workers=self.workers,
            ray=self.ray,
            allow_import=self.allow_import,
        )
        pages = write_page(result)
        if failed := [row for row in result.rows if row.trouble and row.limits]:  # planned, and then not as asked
            note(str(result))
            raise FleetError(
                f"{len(failed)} artifacts could not be made, or break a limit, that of {failed[0].device} among them: "
                f"{failed[0].trouble.rstrip('.')}. What was made is kept; the same command tries the missing ones again"
            )
        if len(result.unserved) == len(result.devices):
            note(str(result))
            raise FleetError(
                f"no device gets a network. {result.rows[0].device}, {result.rows[0].model}: {result.rows[0].trouble}"
            )
        return Answer(str(result), {**result.to_dict(), "pages": [str(page) for page in pages]})
