"""LiteRT on the processor."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from ..files import Refused, one_line, the_only
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
    inputs, outputs = interpreter.get_input_details(), interpreter.get_output_details()
    for direction, entries in (("input", inputs), ("output", outputs)):
        the_only([entry["name"] for entry in entries], direction, path.name)
    source, output = inputs[0], outputs[0]

    def infer(batch: Array) -> Array:
        shape = batch.shape
        scale, zero = source["quantization"]
        if source["dtype"] == np.int8:
            batch = np.clip(np.rint(batch / scale) + zero, -128, 127)
        try:
            interpreter.set_tensor(source["index"], np.asarray(batch, source["dtype"]))
            interpreter.invoke()
        except (RuntimeError, ValueError) as error:
            raise Refused(f"LiteRT does not run {path.name} on {shape}: {one_line(error)}") from error
        scores = interpreter.get_tensor(output["index"])
        scale, zero = output["quantization"]
        return (scores.astype(np.float32) - zero) * np.float32(scale) if output["dtype"] == np.int8 else scores

    return infer
