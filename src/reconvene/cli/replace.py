"""``reconvene replace DIR``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

from tyro.conf import arg

from reconvene.cli.command import (
    Answer,
    ArtifactFolder,
    Command,
    Importing,
    Seeded,
    UsageError,
    names_in,
    refuse_without,
)
from reconvene.cli.data_options import DIGITS


@dataclass(kw_only=True)
class ReplaceCommand(Importing, Seeded, Command):
    """Put cheaper forms in the place of non-linear operations: a recipe of one stage, see docs/compress.md."""

    command_lines: ClassVar[tuple[str, ...]] = ("reconvene replace out/ --allow relu,relu6 -o cheap/",)
    heading: ClassVar[str] = "which operations"

    directory: ArtifactFolder
    """Folder of the artifact, best a trained one."""
    output: Annotated[Path, arg(aliases=["-o"], metavar="DIR")]
    """Where the result goes, in DIR/01-replace; DIR/00-source is what it is compared with."""
    allow: Annotated[str, arg(metavar="OPERATION[,OPERATION]")] = ""
    """Operations that the result may contain, as a chip has them: relu,relu6. Without it --price is needed, and every
    operation but polynomials is allowed."""
    price: Annotated[float | None, arg(metavar="SHARE")] = None
    """Limit on the time of the operations on this machine, as a share of their time now: 0.5."""
    epochs: Annotated[int, arg(metavar="N")] = 0
    """Epochs of training in which the new forms are blended in, taught by the network before. By default none."""
    lr: Annotated[float | None, arg(metavar="RATE")] = None
    """Highest learning rate of that training. By default the recipe's own."""
    data: Annotated[str, arg(metavar="DATA")] = DIGITS
    """What losses are estimated on, and what is trained on: digits, a hub id, or a folder of images or parquet."""
    limit: Annotated[int | None, arg(metavar="N")] = None
    """At most N images of each split."""
    overwrite: bool = False
    """Make anew what another call made in this folder."""

    def run(self) -> Answer:
        """Carry out the recipe."""
        if not self.allow and self.price is None:
            raise UsageError(
                "say what may be left, such as --allow relu,relu6, or what it may cost, such as --price 0.5"
            )
        if not self.epochs:
            refuse_without(self, ("lr",), "--epochs")
        from reconvene.workflow.compression import compress

        allow = list(names_in(self.allow))
        options: dict[str, Any] = {"allow": allow or None, "price": self.price, "lr": self.lr}
        stage = {"epochs": self.epochs, **{name: value for name, value in options.items() if value is not None}}
        recipe: dict[str, Any] = {"model": str(self.directory), "data": self.data, "seed": self.seed}
        recipe |= {} if self.limit is None else {"limit": self.limit}
        result = compress(
            {**recipe, "stages": [{"replace": stage}]},
            self.output,
            overwrite=self.overwrite,
            allow_import=self.allow_import,
        )
        return Answer(str(result), result.to_dict())
