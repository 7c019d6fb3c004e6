"""ONNX Runtime on the processor."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ..files import Refused, one_line
from ..images import Array


def load(path: Path, threads: int) -> Callable[[Array], Array]:
    """A file in ONNX Runtime on the processor."""
    try:
        import onnxruntime as ort
    except ImportError as error:
        raise Refused(
            f"{path.name} runs in ONNX Runtime, which is not installed. Try: pip install onnxruntime"
        ) from error
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3
    kinds = vars(ort.capi.onnxruntime_pybind11_state).values()  # its errors have no base of their own
    runtime_errors = tuple(member for member in kinds if isinstance(member, type) and issubclass(member, Exception))
    try:
        session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except runtime_errors as error:
        raise Refused(
            f"onnxruntime {ort.__version__} cannot load {path.name}: {one_line(error)}. Try a newer one"
        ) from error
    name = session.get_inputs()[0].name
    return lambda batch: session.run(None, {name: batch})[0]
