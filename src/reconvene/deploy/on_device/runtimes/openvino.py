"""OpenVINO on the processor."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ..files import Refused, one_line
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
    request = model.create_infer_request()
    return lambda batch: request.infer({0: batch})[0].copy()
