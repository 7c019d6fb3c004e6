"""``reconvene train DIR``, and ``reconvene train MODEL``."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from tyro.conf import Positional, arg

from reconvene.cli.budget_options import BudgetOptions
from reconvene.cli.command import Answer, Command, ModelOptions, Seeded, TrainOptions, UsageError, changed_options
from reconvene.cli.data_options import TrainingDataOptions
from reconvene.costs import COSTS

if TYPE_CHECKING:
    from reconvene.data import Dataset
    from reconvene.training import TrainConfig


@dataclass(kw_only=True)
class TrainCommand(TrainOptions, BudgetOptions, TrainingDataOptions, ModelOptions, Seeded, Command):
    """Train an artifact, or a model of that name. Stopped at any moment, the same command goes on where it was."""

    command_lines: ClassVar[tuple[str, ...]] = (
        "reconvene train out/ --data digits --epochs 5",
        "reconvene train unet --data cells/ --task segmentation",
    )
    heading: ClassVar[str] = "which training"

    directory: Positional[Annotated[Path, arg(metavar="DIR|MODEL")]]
    """Folder of an artifact; or a model, such as unet, of which an artifact is made first."""
    output: Annotated[Path | None, arg(aliases=["-o"], metavar="DIR")] = None
    """Folder of the artifact that is made of a model. By default out/MODEL."""
    again: bool = False
    """Train a trained artifact on, from its trained weights."""
    sparsity: Annotated[str | None, arg(metavar="NAME:STRENGTH")] = None
    """Pull channels to zero while training, so that they can be cut later: slimming:1e-4, group_lasso:5e-4."""
    qat: bool = False
    """Quantisation-aware: train a trained artifact on with the roundings of int8, by default 3 epochs at rate 0.01."""
    grow: bool = False
    """Let channels leave the dense network and come back while it trains, until it is cut to the budget: that of
    --params and the like, or the widths of DIR's plan."""
    regrow: Annotated[float, arg(metavar="SHARE")] = 0.1
    """With --grow: share of living channels that are exchanged at the first update; it falls to zero."""
    ramp: Annotated[str, arg(metavar="START,END")] = "0.2,0.6"
    """With --grow: shares of the steps between which widths fall."""

    def run(self) -> Answer:
        """Load, train, keep."""
        from reconvene.workflow import train, train_quantised

        self._check_growing()
        folder, dataset = self._artifact()
        if self.grow:
            return self._grown(folder, dataset)
        options: dict[str, Any] = {
            "lesson": self.lesson(),
            "again": self.again,
            "resume": not self.no_resume,
            "allow_import": self.allow_import,
        }
        if self.qat and self.sparsity is not None:
            raise UsageError("--sparsity is for ordinary training, not for --qat")
        if self.qat:
            config, epochs = self.quantised_recipe()
            result = train_quantised(folder, dataset, epochs=epochs, config=config, **options)
        else:
            epochs, description = self.rounds(), f"training {folder}"
            config = replace(self.config(self.seed, self._usual_recipe(folder, epochs)), sparsity=self.sparsity)
            result = train(folder, dataset, epochs=epochs, config=config, description=description, **options)
        return Answer(str(result), {"artifact": str(folder), **asdict(result), **result.metrics})

    def _usual_recipe(self, folder: Path, epochs: int) -> TrainConfig:
        """The recipe that options change; a rate that was given is the highest of the whole schedule."""
        from reconvene.utils.progress import note
        from reconvene.workflow import usual_recipe

        recipe = usual_recipe(folder, epochs, own_rate=self.lr is not None or self.schedule is not None)
        if recipe.tail < 1:
            note(f"trained weights were kept: the last {recipe.tail:.0%} of the schedule; --lr RATE: all of it")
        return recipe

    def _check_growing(self) -> None:
        """UsageError for options that say nothing without --grow, or without a budget, or beside --grow."""
        about_limits = ("device", "target", "size_of", "memory_of", "for_int8")
        limits = changed_options(self, COSTS)
        if not self.grow and (named := [*limits, *changed_options(self, ("regrow", "ramp", *about_limits))]):
            raise UsageError(
                f"{named[0]} says how channels leave and come back during training: add --grow, or leave {named[0]} "
                "out. Before training, channels leave with: reconvene prune"
            )
        if self.grow and not limits and (named := changed_options(self, about_limits)):
            raise UsageError(f"{named[0]} is about a budget, such as --params 4x: add one, or leave it out")
        others = ("qat", "distill", "teacher", "again", "sparsity")
        if self.grow and (named := changed_options(self, others)):
            raise UsageError(f"--grow trains a dense network on labels: leave {named[0]} out")

    def _grown(self, folder: Path, dataset: Dataset) -> Answer:
        """Train under masks, cut, keep."""
        from reconvene.workflow import Pruning, train_growing

        limited = any(getattr(self, name) is not None for name in COSTS)
        try:
            start, end = (float(share) for share in self.ramp.split(","))
        except ValueError as error:
            raise UsageError(f"--ramp {self.ramp} is not a pair of shares, such as 0.2,0.6") from error
        result = train_growing(
            folder,
            dataset,
            epochs=self.rounds(),
            budget=self.budget() if limited else None,
            pruning=Pruning(seed=self.seed, **self.target_options),
            regrow=self.regrow,
            ramp=(start, end),
            config=self.config(self.seed),
            resume=not self.no_resume,
            allow_import=self.allow_import,
        )
        return Answer(str(result), {"artifact": str(folder), **asdict(result), **result.metrics})

    def _artifact(self) -> tuple[Path, Dataset]:
        """The artifact to train, which is made where a model was named, and the data it is trained on."""
        from reconvene import artifact
        from reconvene.data.trial import try_model
        from reconvene.errors import ArtifactError
        from reconvene.models import MODELS

        if self.directory.is_dir() or (":" not in str(self.directory) and len(self.directory.parts) > 1):
            if self.output is not None or self.model_arg or self.input is not None:
                raise UsageError(
                    f"{self.directory} is the path of an artifact, and -o, --model-arg and --input are about a model "
                    "given by name. Leave them out"
                )
            shape = artifact.Artifact.open(self.directory).source.input_shape
            return self.directory, self.dataset(shape, self.directory)
        name = str(self.directory)
        if not re.search(r"[:.]", name) and name not in MODELS:
            raise ArtifactError(
                f"there is no folder {name}, and no model of that name. Make the artifact first: reconvene prune MODEL "
                f"--params 4x -o {name}. Models of ours: {', '.join(sorted(MODELS))}"
            )
        source = self.source(name, seed=self.seed)
        source = replace(source, input_shape=self.image_shape(self.input, source))
        dataset = self.dataset(source.input_shape)
        source = source.with_classes(dataset.outputs)
        folder = self.output or Path("out") / re.sub(r"[^\w.-]+", "-", name)
        if not (folder / artifact.MANIFEST).exists():
            model = source.build(allow_import=self.allow_import)
            try_model(model, dataset)  # before a folder is made that nothing can train
            artifact.save(model, folder, source=source)
        elif (stored := artifact.Artifact.open(folder)).source != source or (stored.plan is not None and not self.grow):
            raise UsageError(f"{folder} holds another network than {name} as it was asked for. Choose another with -o")
        return folder, dataset

    def quantised_recipe(self) -> tuple[TrainConfig, int]:
        """The recipe and the epochs of quantisation-aware training, with what was given in their place."""
        from reconvene.workflow.qat import QAT_CONFIG, QAT_EPOCHS

        return self.config(self.seed, QAT_CONFIG), self.rounds(QAT_EPOCHS)
