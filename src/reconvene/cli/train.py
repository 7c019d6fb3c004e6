"""``reconvene train DIR``."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from reconvene.cli.command import Answer, ArtifactFolder, Command, DataOptions, Importing, TrainOptions

if TYPE_CHECKING:
    from reconvene.training import TrainConfig


@dataclass(kw_only=True)
class Train(TrainOptions, DataOptions, Importing, Command):
    """Train an artifact. Stopped at any moment, the same command goes on where it was."""

    directory: ArtifactFolder
    """Folder of the artifact."""
    again: bool = False
    """Train a trained artifact on, from its trained weights."""
    qat: bool = False
    """Quantisation-aware: train a trained artifact on with the roundings of int8, by default 3 epochs at rate 0.01."""

    def run(self) -> Answer:
        """Load, train, keep."""
        from reconvene import artifact
        from reconvene.cli.progress import steps
        from reconvene.workflow import train, train_quantised

        dataset = self.dataset(artifact.Artifact.open(self.directory).source.input_shape)
        options: dict[str, Any] = {
            "lesson": self.lesson(),
            "again": self.again,
            "resume": not self.no_resume,
            "allow_import": self.allow_import,
            "steps": steps,
        }
        if self.qat:
            config, epochs = self.quantised_recipe()
            result = train_quantised(self.directory, dataset, epochs=epochs, config=config, **options)
        else:
            config, epochs, description = self.config(self.seed), self.rounds(), f"training {self.directory}"
            result = train(self.directory, dataset, epochs=epochs, config=config, description=description, **options)
        return Answer(str(result), {"artifact": str(self.directory), **asdict(result), **result.metrics})

    def quantised_recipe(self) -> tuple[TrainConfig, int]:
        """The recipe and the epochs of quantisation-aware training, with what was given in their place."""
        from reconvene.workflow.qat import QAT_CONFIG, QAT_EPOCHS

        return self.config(self.seed, QAT_CONFIG), self.rounds(QAT_EPOCHS)
