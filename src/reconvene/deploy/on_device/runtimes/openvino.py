"""OpenVINO on the processor."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ..files import Refused, one_line, the_only
from ..images import Array


def load(path: Path, threads: int) -> Callable[[Array], Array]:
    """A file in OpenVINO on the processor, in float32 wherever the file is."""
    try:
        import openvino as ov
    except ImportError as error:
        raise Refused(f"{path.name} runs in OpenVINO, which is not installed. Try: pip install openvino") from error
    # Where the processor has bfloat16 it would be taken for float32.
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1}
    try:
        model = ov.Core().compile_model(path, "CPU", settings)
    except RuntimeError as error:
        raise Refused(
            f"openvino {ov.__version__} cannot load {path.name}: {one_line(error)}. Try a newer one"
        ) from error
    for direction, entries in (("input", model.inputs), ("output", model.outputs)):
        the_only([entry.get_any_name() for entry in entries], direction, path.name)
    request = model.create_infer_request()

    def infer(batch: Array) -> Array:
        try:
            return request.infer({0: ov.Tensor(batch)})[0].copy()  # of a bare array no size would be compared
        except RuntimeError as error:
            raise Refused(f"OpenVINO does not run {path.name} on {batch.shape}: {one_line(error)}") from error

    return infer
