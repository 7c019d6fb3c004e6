"""``reconvene export DIR``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import arg

from reconvene.cli.command import Answer, ArtifactFolder, Command, Importing, LimitOptions, Shape, UsageError


@dataclass(kw_only=True)
class Export(LimitOptions, Importing, Command):
    """Write the file that a runtime loads into the artifact, and verify that it computes what the model computes."""

    directory: ArtifactFolder
    """Folder of the artifact."""
    input: Shape = None
    """Shape of one example. By default what the artifact says."""
    to: Annotated[str, arg(metavar="FORMAT[,FORMAT]")] = "onnx"
    """Formats, separated by commas: onnx, openvino, executorch, litert, ncnn."""
    quantize: Literal["int8"] | None = None
    """int8: static quantisation, calibrated on training images of --data and verified on its test images."""
    dense: bool = False
    """Also export the dense network beside it, as dense.onnx."""
    data: Annotated[str | None, arg(metavar="DATA")] = None
    """Verify on the test images of this data: digits, a hub id, or a path. By default on seeded noise."""
    bundle: Annotated[Path | None, arg(metavar="NAME.tar.gz")] = None
    """Also write an archive that classifies images on a device: model, run.py, labels, self-test, checksums."""

    def run(self) -> Answer:
        """Export and verify."""
        formats = [name for name in self.to.split(",") if name]
        if not formats:
            raise UsageError("--to names no format")
        if self.quantize and self.data is None:
            raise UsageError(
                "--quantize int8 is calibrated on real data: add --data, best what the model was trained on"
            )
        int8 = self.int8()
        from reconvene import artifact
        from reconvene.cli.progress import steps
        from reconvene.data import load
        from reconvene.pipeline import bundle, export, training_warnings

        shape = self.input or artifact.manifest(self.directory).source.input_shape
        dataset = None if self.data is None else load(self.data, input_shape=shape, progress=True)
        found = export(
            self.directory,
            formats=formats,
            int8=int8 if self.quantize else None,
            dataset=dataset,
            with_dense=self.dense,
            input_shape=self.input,
            seed=self.seed,
            allow_import=self.allow_import,
            steps=steps,
        )
        text = [str(made) for exports in found.values() for made in exports]
        rows = [{"variant": variant, **made.to_dict()} for variant, exports in found.items() for made in exports]
        warnings = {name: text for name, text in training_warnings(self.directory).items() if name in found}
        text += [f"warning: {name}: {doubt}: agreement with it says little" for name, doubt in warnings.items()]
        answer: dict[str, Any] = {"artifact": str(self.directory), "exports": rows, "warnings": warnings}
        if self.bundle is not None:
            own = list(found.values())[-1]  # the artifact's own model comes after the dense one
            made = bundle(self.directory, self.bundle, exports=own, dataset=dataset, seed=self.seed, steps=steps)
            text.append(str(made))
            answer["bundle"] = made.to_dict()
        return Answer("\n".join(text), answer)
