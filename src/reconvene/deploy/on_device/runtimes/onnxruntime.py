"""ONNX Runtime on the processor."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ..files import Refused, one_line, the_only
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
    own_errors = [member for member in kinds if isinstance(member, type) and issubclass(member, Exception)]
    runtime_errors: tuple[type[Exception], ...] = (*own_errors, RuntimeError, ValueError)
    try:
        session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except runtime_errors as error:
        raise Refused(
            f"onnxruntime {ort.__version__} cannot load {path.name}: {one_line(error)}. Try a newer one"
        ) from error
    source = the_only([entry.name for entry in session.get_inputs()], "input", path.name)
    scores = the_only([entry.name for entry in session.get_outputs()], "output", path.name)

    def infer(batch: Array) -> Array:
        try:
            return session.run([scores], {source: batch})[0]
        except runtime_errors as error:
            raise Refused(f"ONNX Runtime does not run {path.name} on {batch.shape}: {one_line(error)}") from error

    return infer
