"""``reconvene report DIR``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from reconvene.cli.command import Answer, ArtifactFolder, Command


@dataclass(kw_only=True)
class ReportCommand(Command):
    """Write report.html into a pruned artifact from what it knows: budget, files, latency, training, widths."""

    command_lines: ClassVar[tuple[str, ...]] = ("reconvene report out/",)
    heading: ClassVar[str] = "which artifact"

    directory: ArtifactFolder
    """Folder of a pruned artifact. bench and run write it; evaluate renews one that exists."""

    def run(self) -> Answer:
        """Write the page."""
        from reconvene.workflow import report

        page = report(self.directory)
        return Answer(f"report: {page}", {"report": str(page)})
