"""LiteRT on the processor."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from ..files import Refused, one_line
from ..images import Array


def load(path: Path, threads: int) -> Callable[[Array], Array]:
    """A file in LiteRT on the processor; scores of an int8 file come back as float32."""
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError as error:
        raise Refused(f"{path.name} runs in LiteRT, which is not installed. Try: pip install ai-edge-litert") from error
    try:
        interpreter = Interpreter(str(path), num_threads=threads)
        interpreter.allocate_tensors()
    except (RuntimeError, ValueError) as error:
        raise Refused(f"LiteRT cannot load {path.name}: {one_line(error)}. Try a newer one") from error
    (input_entry,), (output_entry,) = interpreter.get_input_details(), interpreter.get_output_details()

    def infer(batch: Array) -> Array:
        scale, zero = input_entry["quantization"]
        if input_entry["dtype"] == np.int8:
            batch = np.clip(np.rint(batch / scale) + zero, -128, 127)
        interpreter.set_tensor(input_entry["index"], np.asarray(batch, input_entry["dtype"]))
        interpreter.invoke()
        scores = interpreter.get_tensor(output_entry["index"])
        scale, zero = output_entry["quantization"]
        return (scores.astype(np.float32) - zero) * np.float32(scale) if output_entry["dtype"] == np.int8 else scores

    return infer
