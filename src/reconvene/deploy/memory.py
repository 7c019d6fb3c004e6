"""Memory for activations as runtimes plan it."""

from __future__ import annotations

from typing import Any

from torch import nn

from reconvene.deploy.model_io import own_inputs
from reconvene.deploy.quantisation import PRECISIONS
from reconvene.deploy.runtimes.registry import FORMATS, memory_planners
from reconvene.errors import UnknownNameError


def planned_memory(model: nn.Module, example_inputs: Any, *, plan: str, precision: str = "fp32") -> int:
    """Bytes for the activations of one inference on the example inputs, weights left out, as a runtime plans them.

    ``executorch`` reads them off the program, for a batch of one: ``non_const_buffer_sizes``, inputs and outputs
    included, of its own portable operators in float32, and of those of its Cortex-M backend in int8. ``onnx`` runs
    the model in ONNX Runtime, in a process of its own, and adds up what it asks its arena for, outputs included and
    inputs, which belong to the caller, not. int8 is calibrated on noise: no plan depends on values.

    Raises UnknownNameError, MissingExtraError, ModelError, ExportError.
    """
    if plan not in memory_planners():
        raise UnknownNameError("plan of memory", plan, memory_planners())
    if precision not in PRECISIONS:
        raise UnknownNameError("precision", precision, PRECISIONS)
    runtime = FORMATS[plan]
    assert runtime.plan_memory is not None, "it is a planner"
    return runtime.plan_memory(runtime, model, own_inputs(model, example_inputs), precision)
