"""``reconvene export DIR``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from tyro.conf import arg

from reconvene.cli.command import Answer, ArtifactFolder, Command, Importing, Shape, UsageError


@dataclass(kw_only=True)
class Export(Importing, Command):
    """Write the file that a runtime loads into the artifact, and verify that it computes what the model computes."""

    directory: ArtifactFolder
    """Folder of the artifact."""
    input: Shape = None
    """Shape of one example. By default what the artifact says."""
    to: Annotated[str, arg(metavar="FORMAT[,FORMAT]")] = "onnx"
    """Formats, separated by commas: onnx."""
    dense: bool = False
    """Also export the dense network beside it, as dense.onnx."""
    data: Annotated[str | None, arg(metavar="DATA")] = None
    """Verify on the test images of this data: digits, a hub id, or a path. By default on seeded noise."""

    def run(self) -> Answer:
        """Export and verify."""
        formats = [name for name in self.to.split(",") if name]
        if not formats:
            raise UsageError("--to names no format")
        from reconvene import artifact
        from reconvene.cli.progress import steps
        from reconvene.data import load
        from reconvene.pipeline import export

        shape = self.input or artifact.manifest(self.directory).source.input_shape
        dataset = None if self.data is None else load(self.data, input_shape=shape, progress=True)
        found = export(
            self.directory,
            formats=formats,
            dataset=dataset,
            with_dense=self.dense,
            input_shape=self.input,
            seed=self.seed,
            allow_import=self.allow_import,
            steps=steps,
        )
        text = "\n".join(str(made) for exports in found.values() for made in exports)
        rows = [{"variant": variant, **made.to_dict()} for variant, exports in found.items() for made in exports]
        return Answer(text, {"artifact": str(self.directory), "exports": rows})
