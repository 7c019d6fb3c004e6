"""``reconvene run MODEL``."""

from __future__ import annotations

import re
import shlex
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, ClassVar

from tyro.conf import arg

from reconvene.cli.budget_options import BudgetOptions
from reconvene.cli.command import (
    Answer,
    Command,
    LimitOptions,
    ModelAddress,
    ModelOptions,
    Seeded,
    TrainOptions,
    UsageError,
    changed_options,
)
from reconvene.cli.data_options import TrainingDataOptions
from reconvene.cli.prune_options import PruneOptions

EXAMPLE_BUDGET = {"params": "16.21x"}


@dataclass(kw_only=True)
class RunCommand(
    LimitOptions, BudgetOptions, TrainOptions, PruneOptions, TrainingDataOptions, ModelOptions, Seeded, Command
):
    """Prune a model, train it and the dense one alike, export and verify both, time them, and write the report.

    Without arguments: VGG-16 with 16.21x fewer parameters, on handwritten digits. Stopped at any moment, the same
    command goes on where it was.
    """

    command_lines: ClassVar[tuple[str, ...]] = (
        "reconvene run",
        "reconvene run resnet20 --data flowers/ --input 3x64x64 --params 4x --epochs 20",
    )
    heading: ClassVar[str] = "which steps"

    model: ModelAddress = "vgg16_bn"
    """vgg16_bn (ours), torchvision:NAME, timm:NAME, transformers:CONFIG-OR-ID, mymodel:make, or mymodel.py:make."""
    output: Annotated[Path | None, arg(aliases=["-o"], metavar="DIR")] = None
    """Folder of the artifact. By default out/MODEL."""

    skip_int8: bool = False
    """Leave int8 out."""

    def run(self) -> Answer:
        """The whole way."""
        if self.skip_int8 and (useless := changed_options(self, self.int8_options)):
            raise UsageError(f"{useless[0]} is about int8: leave it out, or --skip-int8")
        int8 = self.int8()
        budget = self.budget(default=EXAMPLE_BUDGET)
        from reconvene.workflow import run

        source = self.source(self.model, seed=self.seed)
        source = replace(source, input_shape=self.image_shape(self.input, source))
        dataset = self.dataset(source.input_shape)
        outcome = run(
            source.with_classes(dataset.outputs),
            self.output or Path("out") / re.sub(r"[^\w.-]+", "-", self.model),
            data=dataset,
            budget=budget,
            pruning=self.pruning(self.seed, **self.target_options),
            epochs=self.rounds(),
            config=self.config(self.seed),
            lesson=self.lesson(),
            int8=None if self.skip_int8 else int8,
            overwrite=self.overwrite,
            resume=not self.no_resume,
            allow_import=self.allow_import,
            command=shlex.join(["reconvene", *sys.argv[1:]]),
        )
        return Answer(str(outcome), outcome.to_dict())
