"""``reconvene compress recipe.yaml``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

from tyro.conf import Positional, arg

from reconvene.cli.command import Answer, Command, Importing


@dataclass(kw_only=True)
class CompressCommand(Importing, Command):
    """Carry out a recipe: stages such as prune, train and export in any order. Stopped, the same command goes on."""

    command_lines: ClassVar[tuple[str, ...]] = ("reconvene compress recipe.yaml -o out/",)
    heading: ClassVar[str] = "where it goes"

    file: Positional[Annotated[Path, arg(metavar="RECIPE")]]
    """A YAML or TOML file: a network, its data, a budget, and stages. See docs/compress.md."""
    output: Annotated[Path | None, arg(aliases=["-o"], metavar="DIR")] = None
    """Where the stages go. By default out/NAME-OF-THE-FILE."""
    overwrite: bool = False
    """Make stages anew that another recipe made in this folder."""

    def run(self) -> Answer:
        """Carry out what is not done yet."""
        from reconvene.workflow.compression import compress

        result = compress(
            self.file,
            self.output,
            overwrite=self.overwrite,
            allow_import=self.allow_import,
        )
        return Answer(str(result), result.to_dict())
