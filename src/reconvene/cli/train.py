"""``reconvene train DIR``."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from reconvene.cli.command import Answer, ArtifactFolder, Command, DataOptions, Importing, TrainOptions


@dataclass(kw_only=True)
class Train(TrainOptions, DataOptions, Importing, Command):
    """Train an artifact. Stopped at any moment, the same command goes on where it was."""

    directory: ArtifactFolder
    """Folder of the artifact."""
    again: bool = False
    """Train a trained artifact on, from its trained weights."""

    def run(self) -> Answer:
        """Load, train, keep."""
        from reconvene import artifact
        from reconvene.cli.progress import steps
        from reconvene.pipeline import train

        dataset = self.dataset(artifact.manifest(self.directory).source.input_shape)
        result = train(
            self.directory,
            dataset,
            epochs=self.epochs,
            config=self.config(self.seed),
            lesson=self.lesson(),
            again=self.again,
            resume=not self.no_resume,
            allow_import=self.allow_import,
            what=f"training {self.directory}",
            steps=steps,
        )
        return Answer(str(result), {"artifact": str(self.directory), **asdict(result)})
