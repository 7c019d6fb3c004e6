"""What ONNX Runtime asks its arena for in a real run: ``python arena.py MODEL.onnx INPUTS.npz`` prints bytes.

A program of its own, since an arena belongs to a process. From the second run on the runtime takes all activations
that it has planned as one block, and whatever kernels need beside it (packed inputs, columns of a convolution) one by
one. The arena is made to hold no more than was asked for, is emptied after each run, and tells of every extension in
the runtime's log, which is the only place that does.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
from typing import Any

import numpy as np

_EXTENDED = re.compile(rb"Extended allocation by (\d+) bytes")
RUNS = 3


def main(path: str, inputs: str) -> int:
    """Bytes of the last of a few runs."""
    import onnxruntime
    from onnxruntime.capi import _pybind_state as binding

    onnxruntime.set_default_logger_severity(1)  # the arena speaks at this level, sessions are silenced below
    memory_info = binding.OrtMemoryInfo(
        "Cpu", binding.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, binding.OrtMemType.DEFAULT
    )
    sparing = {"max_mem": 0, "arena_extend_strategy": 1, "initial_chunk_size_bytes": 1, "max_dead_bytes_per_chunk": 1}
    descriptor = os.dup(2)
    with tempfile.TemporaryFile() as log:
        os.dup2(log.fileno(), 2)
        try:
            binding.create_and_register_allocator(memory_info, binding.OrtArenaCfg(sparing))
            _run(_session(onnxruntime, _small()), {"x": np.ones(64, np.float32)})  # an arena keeps its first block
            session = _session(onnxruntime, path)
            with np.load(inputs) as feeds:
                inputs_by_name = {node.name: feeds[f"arr_{i}"] for i, node in enumerate(session.get_inputs())}
            for _ in range(RUNS):
                start = log.seek(0, os.SEEK_END)
                _run(session, inputs_by_name)
        finally:
            os.dup2(descriptor, 2)
        log.seek(start)
        return sum(int(size) for size in _EXTENDED.findall(log.read()))


def _session(onnxruntime: Any, model: str | bytes) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    options.add_session_config_entry("session.use_env_allocators", "1")
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def _run(session: Any, feeds: dict[str, np.ndarray[Any, Any]]) -> None:
    import onnxruntime

    emptied = onnxruntime.RunOptions()
    emptied.log_severity_level = 4
    emptied.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
    session.run(None, feeds, emptied)


def _small() -> bytes:
    from onnx import TensorProto, helper

    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [64]) for name in ("x", "z")]
    nodes = [helper.make_node("Sin", ["x"], ["y"]), helper.make_node("Cos", ["y"], ["z"])]
    graph = helper.make_graph(nodes, "small", values[:1], values[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    return bytes(model.SerializeToString())


if __name__ == "__main__":
    del sys.path[0]  # the folder of this file, whose onnx.py is not the package
    print(main(*sys.argv[1:]))
