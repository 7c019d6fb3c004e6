"""``reconvene export DIR``."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from tyro.conf import arg

from reconvene.cli.command import (
    Answer,
    ArtifactFolder,
    Command,
    Importing,
    InputShape,
    LimitOptions,
    Seeded,
    UsageError,
    names_in,
    refuse_without,
)

if TYPE_CHECKING:
    from reconvene.data import Dataset
    from reconvene.deploy import Exported
    from reconvene.workflow import Form


@dataclass(kw_only=True)
class ExportCommand(LimitOptions, Importing, Seeded, Command):
    """Write the file that a runtime loads into the artifact, and verify that it computes what the model computes."""

    command_lines: ClassVar[tuple[str, ...]] = ("reconvene export out/ --to onnx --quantize int8 --data digits",)
    heading: ClassVar[str] = "which file"

    directory: ArtifactFolder
    """Folder of the artifact."""
    input: InputShape = None
    """Shape of one example. By default what the artifact says."""
    to: Annotated[str, arg(metavar="FORMAT[,FORMAT]")] = "onnx"
    """Formats, separated by commas: onnx, openvino, executorch, litert, ncnn; of spiking networks nir."""
    precision: Literal["fp32", "fp16"] | None = None
    """fp16: weights in float16, as model.fp16.onnx; onnx, openvino, executorch, ncnn. By default the model's own."""
    batch: Annotated[str, arg(metavar="auto|free|static|N")] = "auto"
    """Examples a call takes: free (any number), static (one), or N. auto: free where the format and the model can."""
    dynamic_axes: Annotated[str, arg(metavar="AXIS[,AXIS]")] = ""
    """Axes of images that are free besides the batch: height, width; onnx, openvino."""
    opset: Annotated[int | None, arg(metavar="N")] = None
    """Opset of an ONNX file. By default 20."""
    state: Literal["fresh", "carried"] = "fresh"
    """Of a network with state, such as membranes. fresh: every call begins anew, time steps are unrolled. carried:
    model.step.onnx is one time step that takes the state and gives the next; onnx, openvino, executorch."""
    task: Annotated[str | None, arg(metavar="NAME")] = None
    """Task of the model: classification, regression, ... Agreement is checked for tasks with classes. By default what
    the artifact was trained for."""
    tolerance: Annotated[float | None, arg(metavar="SHARE")] = None
    """Largest error of a float32 or float16 file, as a share of the largest output. By default 1e-4, and 1e-2 in
    float16."""
    quantize: Literal["int8", "plan"] | None = None
    """int8: static quantisation, calibrated on training images of --data and verified on its test images. plan: the
    same with weights of the bits that the artifact's plan gives every channel, packed in the file; onnx, openvino,
    litert."""
    target: Annotated[str | None, arg(metavar="CHIP")] = None
    """Also compile the int8 LiteRT file for this chip, such as ethos-u55-128. By default what the artifact was pruned
    for."""
    dense: bool = False
    """Also export the dense network beside it, as dense.onnx."""
    data: Annotated[str | None, arg(metavar="DATA")] = None
    """Verify on the test images of this data: digits, a hub id, or a path. By default on seeded noise."""
    limit: Annotated[int | None, arg(metavar="N")] = None
    """At most N images of each split of --data."""
    bundle: Annotated[Path | None, arg(metavar="NAME.tar.gz")] = None
    """Also write an archive that classifies images on a device: model, run.py, labels, self-test, checksums."""

    def run(self) -> Answer:
        """Export and verify."""
        formats = names_in(self.to)
        if not formats:
            raise UsageError("--to names no format")
        if self.quantize is None:
            refuse_without(self, self.int8_options, "--quantize")
        if self.data is None:
            refuse_without(self, ("limit",), "--data")
        if self.quantize and self.data is None:
            raise UsageError(
                f"--quantize {self.quantize} is calibrated on real data: add --data, best what the model was trained on"
            )
        if self.target is not None and not (self.quantize == "int8" and "litert" in formats):
            raise UsageError("--target compiles the int8 LiteRT file: add --to litert --quantize int8")
        form = self._form()
        int8 = replace(self.int8(), chip=self.target, plan_bits=self.quantize == "plan")
        from reconvene.artifact import Artifact
        from reconvene.deploy.bundle import require_bundle
        from reconvene.deploy.runtimes.registry import format_named
        from reconvene.workflow import export_artifact
        from reconvene.workflow.bundle import bundled_preprocessing
        from reconvene.workflow.inputs import DataChoice, dataset_for

        for name in formats:
            format_named(name)  # a name that nobody knows is told before data are read
        stored = Artifact.open(self.directory)
        untrained = stored.preprocessing is None  # a trained one says itself what its data are
        choice = DataChoice(self.task if untrained else None, self.input, self.limit)
        dataset = None if self.data is None else dataset_for(self.directory, self.data, choice)
        if self.bundle is not None:  # what no bundle can hold is said before the export
            require_bundle(self.bundle, formats, [form.batch])
            bundled_preprocessing(stored, dataset, self.input)
        by_variant = export_artifact(
            self.directory,
            formats=formats,
            form=form,
            int8=int8 if self.quantize else None,
            dataset=dataset,
            with_dense=self.dense,
            input_shape=self.input,
            seed=self.seed,
            allow_import=self.allow_import,
        )
        return self._answer(by_variant, dataset)

    def _form(self) -> Form:
        """How the files are written, as the workflow takes it."""
        batch = int(self.batch) if self.batch.isdecimal() else self.batch
        if batch not in ("auto", "free", "static") and not (isinstance(batch, int) and batch > 0):
            raise UsageError(f"--batch {self.batch} is none of auto, free, static, nor a number of examples")
        if self.tolerance is not None and self.quantize:
            raise UsageError("--tolerance is for float32 and float16: int8 has limits, --min-agreement among them")
        if self.tolerance is not None and not 0 < self.tolerance < 1:
            raise UsageError(f"--tolerance {self.tolerance}: it is a share between 0 and 1")
        if self.quantize and self.precision == "fp16":
            raise UsageError(f"--quantize {self.quantize} is made from float32: leave --precision fp16 out")
        from reconvene.workflow import Form

        axes = names_in(self.dynamic_axes)
        if self.state == "carried" and (self.quantize or self.bundle is not None):
            raise UsageError("--state carried is a file of its own: leave --quantize and --bundle out")
        return Form(self.precision, batch, axes, self.opset, self.task, self.tolerance, self.state)

    def _answer(self, by_variant: dict[str, list[Exported]], dataset: Dataset | None) -> Answer:
        """What was exported; with --bundle also write that."""
        from reconvene.workflow import bundle, training_warnings

        text = [str(exported) for exports in by_variant.values() for exported in exports]
        rows = [
            {"variant": variant, **exported.to_dict()}
            for variant, exports in by_variant.items()
            for exported in exports
        ]
        warnings = {name: text for name, text in training_warnings(self.directory).items() if name in by_variant}
        text += [f"warning: {name}: {doubt}: agreement with it says little" for name, doubt in warnings.items()]
        if dataset is not None:
            text.append(f"inputs: {dataset.preprocessing}")
        answer: dict[str, Any] = {"artifact": str(self.directory), "exports": rows, "warnings": warnings}
        if self.bundle is not None:
            artifact_exports = list(by_variant.values())[-1]  # the artifact's own model comes after the dense one
            bundled = bundle(self.directory, self.bundle, exports=artifact_exports, dataset=dataset, seed=self.seed)
            text.append(str(bundled))
            answer["bundle"] = bundled.to_dict()
        return Answer("\n".join(text), answer)
