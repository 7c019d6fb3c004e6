"""``reconvene bench DIR``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from tyro.conf import arg

from reconvene.cli.command import Answer, ArtifactFolder, Command, Importing, Shape, UsageError


@dataclass(kw_only=True)
class Bench(Importing, Command):
    """Time the dense network beside the pruned one, in each runtime, in turns, on one thread."""

    directory: ArtifactFolder
    """Folder of the artifact."""
    input: Shape = None
    """Shape of one example. By default what the artifact says."""
    runtimes: Annotated[str, arg(metavar="RUNTIME[,RUNTIME]")] = "onnxruntime,eager"
    """Runtimes, separated by commas: onnxruntime, eager."""
    batch: int = 1
    """Examples in one inference."""
    threads: int = 1
    """Threads a runtime may use."""
    repeats: int = 30
    """Rounds."""

    def run(self) -> Answer:
        """Time, and keep the result as bench.json."""
        runtimes = [name for name in self.runtimes.split(",") if name]
        if not runtimes or min(self.batch, self.threads, self.repeats) < 1:
            raise UsageError("--runtimes names one at least, and --batch, --threads and --repeats are 1 at least")
        from reconvene.cli.progress import steps
        from reconvene.pipeline import bench

        result = bench(
            self.directory,
            runtimes=runtimes,
            batch=self.batch,
            threads=self.threads,
            repeats=self.repeats,
            input_shape=self.input,
            seed=self.seed,
            allow_import=self.allow_import,
            steps=steps,
        )
        return Answer(str(result), {"artifact": str(self.directory), **result.to_dict()})
