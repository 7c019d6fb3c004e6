"""What the caller asks of a float32 or float16 file: its batch, its free axes, its opset, its precision."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from reconvene.deploy.model_io import batch_size, leaves, take_samples
from reconvene.errors import ExportError, UnknownNameError

if TYPE_CHECKING:
    from reconvene.deploy.runtimes.base import Runtime

AUTO, FREE, STATIC = "auto", "free", "static"
BATCHES = (AUTO, FREE, STATIC)
_AXES = {"height": -2, "width": -1}
"""Axes that may be free beside the batch: the last two of every input of four dimensions or more (NCHW, NCDHW)."""
FILE_PRECISIONS = ("fp16", "fp32")


@dataclass(frozen=True)
class FileOptions:
    """How a file is written; the defaults fit every format.

    Attributes:
        batch: ``auto`` leaves the batch free where the format and the model can and is ``static`` elsewhere;
            ``free`` insists; ``static`` is the batch of the example; a number is a static batch of so many.
        dynamic_axes: ``height``, ``width`` or both.
        opset: of ONNX; ``None`` is our own choice.
        precision: ``fp32`` or ``fp16``; in ``fp16`` weights and arithmetic are halves, inputs and outputs as in the
            model.
        half: whether a float32 model is to be turned into halves on the way.
    """

    batch: str | int = AUTO
    dynamic_axes: tuple[str, ...] = ()
    opset: int | None = None
    precision: str = "fp32"
    half: bool = False

    def check(self, runtime: Runtime, *, int8: bool) -> None:
        """Raise UnknownNameError for a name that means nothing, ExportError for what the format cannot."""
        file_format = runtime.file_format
        if isinstance(self.batch, bool) or (isinstance(self.batch, int) and self.batch < 1):
            raise ExportError(f"batch={self.batch!r} is not a number of examples: 1 at least")
        if not isinstance(self.batch, int) and self.batch not in BATCHES:
            raise UnknownNameError("batch", self.batch, [*BATCHES, "a number of examples"])
        for axis in self.dynamic_axes:
            if axis not in _AXES:
                raise UnknownNameError("axis", axis, _AXES)
        if self.precision not in FILE_PRECISIONS:
            raise UnknownNameError("precision", self.precision, FILE_PRECISIONS)
        if int8 and self.precision == "fp16":
            raise ExportError("int8 is made from float32: leave precision='fp16' out, or pass model.float()")
        lacking = {
            "batch='free'": self.batch == FREE and "free_batch" not in runtime.takes,
            f"batch={self.batch}": isinstance(self.batch, int)
            and self.batch > 1
            and "static_batch" not in runtime.takes,
            f"dynamic_axes={list(self.dynamic_axes)}": bool(self.dynamic_axes) and "dynamic_axes" not in runtime.takes,
            f"opset={self.opset}": self.opset is not None and "opset" not in runtime.takes,
            "precision='fp16'": self.precision == "fp16" and "fp16" not in runtime.takes,
        }
        for option, lacks in lacking.items():
            if lacks:
                raise ExportError(f"{option} is nothing that {file_format} files have here. {_others(option)}")

    def resolved(self, model: nn.Module, runtime: Runtime, example_inputs: Any) -> tuple[FileOptions, Any]:
        """The same with a batch that is ``auto``, ``free`` or ``static``, and the example inputs in that batch."""
        batch = self.batch
        if isinstance(batch, int):
            example_inputs, batch = take_samples(example_inputs, 0, batch), STATIC
        size = batch_size(example_inputs)
        if batch == STATIC and size > 1 and "static_batch" not in runtime.takes:
            raise ExportError(f"{runtime.file_format} files are for a batch of one, not of {size}. Try batch=1")
        if self.dynamic_axes and not any(tensor.ndim >= 4 for tensor in leaves(example_inputs)):
            raise ExportError(
                f"{type(model).__name__} has no input with a height and a width: dynamic_axes is about inputs of four "
                "dimensions or more"
            )
        return replace(self, batch=batch), example_inputs


def precision_of(model: nn.Module, precision: str | None) -> tuple[str, bool]:
    """The precision of the file, and whether a float32 model must be turned into it: by default the model's own.

    Raises ExportError for weights that no file holds, or that are not what was asked for.
    """
    types = {tensor.dtype for tensor in (*model.parameters(), *model.buffers()) if tensor.is_floating_point()}
    if torch.bfloat16 in types:
        raise ExportError(f"{type(model).__name__} holds bfloat16 weights. Pass model.float() or model.half()")
    if torch.float16 in types:
        if precision == "fp32":
            raise ExportError(f"{type(model).__name__} holds float16 weights. Pass model.float(), or precision='fp16'")
        return "fp16" if precision is None else precision, False
    return precision or "fp32", precision == "fp16"


def free_axes(tensor: Tensor, options: FileOptions) -> dict[int, str]:
    """The axes of one input that are to be free beside the batch, with their names."""
    if tensor.ndim < 4:
        return {}
    return {tensor.ndim + _AXES[name]: name for name in _AXES if name in options.dynamic_axes}


def _others(option: str) -> str:
    from reconvene.deploy.runtimes.registry import FORMATS

    name = option.split("=")[0]
    key = {"batch": "free_batch" if "free" in option else "static_batch", "precision": "fp16"}.get(name, name)
    names = sorted(format_name for format_name, runtime in FORMATS.items() if key in runtime.takes)
    return f"Formats that do: {', '.join(names)}"
