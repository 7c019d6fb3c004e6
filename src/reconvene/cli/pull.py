"""``reconvene pull REPOSITORY -o DIR``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

from tyro.conf import arg

from reconvene.cli.command import Answer, Command
from reconvene.cli.push import Repository


@dataclass(kw_only=True)
class PullCommand(Command):
    """Fetch an artifact from the Hugging Face hub into a folder, to train, export or bench it there."""

    command_lines: ClassVar[tuple[str, ...]] = ("reconvene pull owner/name -o out/",)
    heading: ClassVar[str] = "which artifact"

    repository: Repository
    """Where from."""
    output: Annotated[Path, arg(aliases=["-o"], metavar="DIR")]
    """Folder of the artifact."""
    revision: Annotated[str | None, arg(metavar="REVISION")] = None
    """Branch, tag or commit. By default the main branch."""
    overwrite: bool = False
    """Replace an artifact that is there."""

    def run(self) -> Answer:
        """Fetch and check."""
        from reconvene import artifact

        folder = artifact.pull(self.repository, self.output, revision=self.revision, overwrite=self.overwrite)
        source = artifact.Artifact.open(folder).source
        return Answer(f"{source.address}: {folder}", {"artifact": str(folder), "model": source.to_dict()})
