"""``reconvene search DIR -o OUT``."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, ClassVar

from tyro.conf import UseAppendAction, arg

from reconvene.cli.budget_options import CostOptions
from reconvene.cli.command import Answer, ArtifactFolder, Command, Importing, Seeded
from reconvene.cli.data_options import DataOptions
from reconvene.cli.prune_options import read_bits


@dataclass(kw_only=True)
class SearchCommand(CostOptions, DataOptions, Importing, Seeded, Command):
    """Search the width and the bits of every channel of a trained artifact while it is trained; one run, one budget.

    Stopped at any moment, the same command goes on where it was.
    """

    command_lines: ClassVar[tuple[str, ...]] = ("reconvene search out/ --data digits --size 25% -o small/",)
    heading: ClassVar[str] = "how to search"

    directory: ArtifactFolder
    """Folder of the trained artifact."""
    output: Annotated[Path, arg(aliases=["-o"], metavar="DIR")]
    """Folder of the small network's artifact, and of the checkpoint until it is done."""
    bits: Annotated[str, arg(metavar="BITS,BITS")] = "0,2,4,8"
    """Bits that weights can have, zero for channels that leave. --size is that of packed weights."""
    activation_bits: Annotated[str, arg(metavar="BITS,BITS")] = "8"
    """Bits that layer inputs can have: 2,4,8. Fewer than 8 where --cycles, --energy or --ops-bit gain by it."""
    device: Annotated[str | None, arg(metavar="PROFILE")] = None
    """Profile of the device that --latency is about, in int8: a file, a name, or here (this machine, the default)."""
    epochs: Annotated[int, arg(metavar="N")] = 8
    """Epochs of all phases together."""
    warmup: Annotated[int, arg(metavar="N")] = 0
    """Epochs in float first, for a network that is not trained."""
    finetune: Annotated[int | None, arg(metavar="N")] = None
    """Epochs with frozen bits at the end. By default three of eight."""
    lr: Annotated[float, arg(metavar="RATE")] = 0.02
    """Highest learning rate of the weights."""
    batch_size: Annotated[int | None, arg(metavar="N")] = None
    """Images a step. By default 128, fewer for small data."""
    keep: UseAppendAction[Annotated[tuple[str, ...], arg(metavar="NAME")]] = ()
    """A layer, or a pattern such as 'stem.*', of which no channel leaves; as often as needed."""
    round_to: Annotated[int | None, arg(metavar="N")] = None
    """Widths become multiples of this. By default any width."""
    train_on: Annotated[str, arg(metavar="DEVICE")] = "auto"
    """cpu, cuda, cuda:1; auto: a CUDA device if there is one."""
    overwrite: bool = False
    """Replace an artifact that was trained already."""
    no_resume: bool = False
    """Start an unfinished search over instead of going on from its checkpoint."""

    def run(self) -> Answer:
        """Search, fine-tune, keep."""
        budget, bits = self.budget(), read_bits(self.bits)
        from reconvene import artifact
        from reconvene.workflow import Searching, search_artifact

        stored = artifact.Artifact.open(self.directory)
        searching = Searching(
            bits=bits,
            epochs=self.epochs,
            warmup=self.warmup,
            finetune=self.finetune,
            lr=self.lr,
            batch_size=self.batch_size,
            target=self.target,
            keep=self.keep,
            round_to=self.round_to,
            seed=self.seed,
            train_on=self.train_on,
            activation_bits=read_bits(self.activation_bits, "activation-bits"),
            device=self.device,
        )
        plan, training = search_artifact(
            self.directory,
            self.output,
            self.dataset(stored.source.input_shape, self.directory),
            budget=budget,
            searching=searching,
            overwrite=self.overwrite,
            resume=not self.no_resume,
            allow_import=self.allow_import,
        )
        before = "" if stored.training is None else f"before: {stored.training}\n"
        text = f"{plan}\n\n{before}with its bits: {training}\nartifact: {self.output}"
        data = {
            "artifact": str(self.output),
            "groups": plan.summary,
            "costs": plan.costs,
            "limits": plan.limits,
            "bits": None if plan.bits is None else plan.bits.to_dict(),
            **asdict(training),
            **training.metrics,
        }
        return Answer(text, data)
