"""The calls of an encrypted network on plain numbers: how large they get, and the scores of a control image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from reconvene.costs.encrypted import HEADROOM, CkksParameters
from reconvene.costs.encrypted_walk import SIZED
from reconvene.errors import ModelError
from reconvene.structure import Structure
from reconvene.structure.inputs import map_tensors, tensors_in
from reconvene.structure.recording import Op


@dataclass(frozen=True)
class PlainRun:
    """What the calls of a network give on plain images.

    Attributes:
        scores: float64 ``[N, ...]``.
        output: the call that gives them, with its layer.
        largest_inside: the largest absolute value of any number before the scores; ``inside``: the call that gives it.
    """

    scores: Tensor
    output: str
    largest_inside: float
    inside: str

    @classmethod
    def of(cls, structure: Structure, constants: Mapping[int, Tensor], images: Tensor) -> PlainRun:
        """Run recorded calls on images, float64 ``[N, ...]``.

        Raises ModelError for an output that does not depend on the images, or is not finite.
        """
        values: dict[int, Any] = {key: tensor.clone() for key, tensor in constants.items()}
        input_twin, output = structure.recording.inputs[0], structure.eval_outputs()[0]
        values[id(input_twin)], dependent = images.clone(), {id(input_twin)}
        site, largest, inside = "the input", float(images.abs().max()), "the input"
        for op in structure.eval_ops():
            follows = any(id(tensor) in dependent for tensor in tensors_in(op.args))
            arguments = map_tensors(lambda tensor: values.get(id(tensor), tensor), op.args)
            for tensor, value in zip(
                op.outs, results_of(op, arguments, len(images) if follows else None), strict=False
            ):
                values[id(tensor)] = value
                if not follows or tensor is None or not tensor.numel():  # a batch norm in eval gives empty statistics
                    continue
                dependent.add(id(tensor))
                if tensor is output:
                    site = op.site
                elif (size := float(value.abs().max())) > largest:
                    largest, inside = size, op.site
        if id(output) not in dependent:
            raise ModelError("the output does not depend on the images: there is nothing to encrypt")
        scores: Tensor = values[id(output)]
        if not bool(scores.isfinite().all()):
            raise ModelError(f"scores of the example inputs ({site}) are not finite: look for nan in weights or images")
        return cls(scores, site, largest, inside)

    def require_room(self, parameters: CkksParameters) -> None:
        """Raise ModelError where a number inside may wrap around; the parameters have room for the scores."""
        if self.largest_inside * HEADROOM > parameters.largest_inside:
            raise ModelError(
                f"{self.inside}: numbers reach {self.largest_inside:,.4g} on the example inputs, and wrap around "
                f"beyond {parameters.largest_inside:,.4g}. Scale the weights before this call down, or "
                "normalise the images"
            )


def results_of(op: Op, arguments: Sequence[Any], images: int | None = None) -> list[Any]:
    """What a recorded call gives for plain arguments, floating-point numbers as float64.

    ``images``: how many there are, where the call computes on images.
    """
    call, on_cpu = list(arguments), {"device": torch.device("cpu")} if "device" in op.kwargs else {}
    if images is not None and op.operator in SIZED:
        call[1] = [images, *list(call[1])[1:]]
    result = op.func(*call, **{**op.kwargs, **on_cpu})  # recorded on the meta device
    return [_double(value) for value in (result if isinstance(result, tuple | list) else [result])]


def _double(value: Any) -> Any:
    return value.double() if isinstance(value, Tensor) and value.is_floating_point() else value
