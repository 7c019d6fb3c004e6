"""The probe of an artifact: what its model outputs for one seeded input, kept at save and compared after every load.

The input is a description (shape, dtype, seed), so the probe is a few numbers in the manifest. Weights that fit a
module can still compute something else there: a module that migrates weights by their version, code of another release,
an attribute that was changed after construction.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import AfterValidator, Field
from torch import Tensor, nn

from reconvene.models import example_inputs
from reconvene.models.seeding import seeded
from reconvene.rectifier.calibration import undisturbed
from reconvene.structure import tensors_in
from reconvene.structure.fresh import call_afresh
from reconvene.utils.module_tree import device_of
from reconvene.utils.schema import AnySeed, Count, Text, closed

SEED = 0
_VALUES = 64
"""Numbers kept of each output tensor, evenly spaced, besides its largest magnitude and its root mean square."""
_DIGITS = 6
"""Decimal digits kept of a value's share of the largest: what kernels of another machine change lies mostly below."""
_TOLERANCES = {torch.float64: 1e-6, torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 5e-2}
"""Largest difference, as a share of an output's largest magnitude, by the dtype of the output. Kernels of another
processor, number of threads or release of torch differ by about 1e-6 in float32."""
ACCELERATOR = 1e-2
"""In float32 between an accelerator, whose convolutions may round to ten bits (TF32), and the CPU."""
MOVED = 1e-6
"""Relative change of the input that must not move the output beyond the tolerance: else it says nothing elsewhere."""
_TROUBLE = (RuntimeError, TypeError, ValueError, LookupError, AttributeError, AssertionError, ArithmeticError)

DtypeName = Literal["float64", "float32", "float16", "bfloat16"]
"""Those of ``TOLERANCES``."""
Magnitude = Annotated[float, Field(ge=0, le=1e300)]


def _of_a_sane_size(shape: tuple[int, ...]) -> tuple[int, ...]:
    if math.prod(shape) > 2**28:
        raise ValueError("has more than 2**28 elements")
    return shape


@closed
@dataclass(frozen=True)
class ProbeInput:
    """The input, from which it can be drawn again: ``[1, *shape of an example]``."""

    shape: Annotated[
        tuple[Annotated[int, Field(ge=1, le=2**28)], ...],
        Field(min_length=1, max_length=8),
        AfterValidator(_of_a_sane_size),
    ]
    dtype: DtypeName
    seed: AnySeed

    def draw(self) -> Tensor:
        """The tensor."""
        _, *shape = self.shape
        dtype: torch.dtype = getattr(torch, self.dtype)
        return example_inputs(tuple(shape), seed=self.seed).to(dtype)


@closed
@dataclass(frozen=True)
class ProbeOutput:
    """One output tensor: its largest magnitude, its root mean square, and some values as shares of the largest."""

    shape: Annotated[tuple[Count, ...], Field(max_length=64)]
    dtype: DtypeName
    largest: Magnitude
    rms: Magnitude
    values: Annotated[tuple[float, ...], Field(max_length=_VALUES)]


def _whole(probe: Probe) -> Probe:
    outputs = probe.outputs or ()
    if (probe.skipped is None) != (probe.input is not None and bool(outputs)):
        raise ValueError("needs an input and its outputs, or the reason why it was skipped")
    if any(len(output.values) != min(_VALUES, math.prod(output.shape)) for output in outputs):
        raise ValueError("has another number of values than its outputs have")
    return probe


@closed
@dataclass(frozen=True)
class Probe:
    """An input and what the model put out for it, or in ``skipped`` the reason why there is none."""

    input: ProbeInput | None = None
    outputs: Annotated[tuple[ProbeOutput, ...], Field(max_length=1000)] | None = None
    skipped: Text | None = None


CheckedProbe = Annotated[Probe, AfterValidator(_whole)]
"""One in a file."""


class ProbeError(Exception):
    """Why a model has no probe; the message goes into the manifest."""


def take_probe(model: nn.Module, shape: Sequence[int] | None) -> Probe:
    """The probe of ``model`` on its device.

    Args:
        model: in any mode; modes, attributes and random state are left as they are.
        shape: of one example without the batch dimension, None where it is not known.
    """
    if shape is None:
        return Probe(skipped="the input shape is not known: save with a source that has input_shape")
    description = ProbeInput((1, *shape), _dtype_name(_float_dtype(model)), SEED)
    try:
        outputs = _outputs(model, description.draw())
        moved = _outputs(model, description.draw() * (1 + MOVED))
    except ProbeError as error:
        return Probe(skipped=str(error))
    if difference := _difference(outputs, moved):
        return Probe(skipped=f"its output is not stable: {difference} when the input changes by {MOVED:g} of itself")
    return Probe(description, outputs)


def differs(model: nn.Module, probe: Probe) -> str | None:
    """In what ``model`` differs from the one that the probe was taken of, in words; None where it does not."""
    if probe.input is None or probe.outputs is None:
        return None
    try:
        outputs = _outputs(model, probe.input.draw())
    except ProbeError as error:
        return str(error)
    return _difference(probe.outputs, outputs, elsewhere=device_of(model).type != "cpu")


def _outputs(model: nn.Module, example: Tensor) -> tuple[ProbeOutput, ...]:
    """A summary of every floating output for ``example``. Raises ProbeError."""
    example = example.to(device_of(model))
    with seeded(SEED), undisturbed(model, seed=SEED):
        try:
            tensors = [tensor for tensor in tensors_in(call_afresh(model, example)) if tensor.is_floating_point()]
        except _TROUBLE as error:
            reason = " ".join(str(error).split())[:200]
            raise ProbeError(f"it does not run on {list(example.shape)}: {type(error).__name__}: {reason}") from error
    outputs = tuple(_summary(tensor) for tensor in tensors if tensor.numel() and tensor.dtype in _TOLERANCES)
    if not outputs:
        raise ProbeError("it outputs no floating-point tensor")
    return outputs


def _summary(tensor: Tensor) -> ProbeOutput:
    flat = tensor.detach().cpu().reshape(-1).double()
    if not bool(flat.isfinite().all()):
        raise ProbeError("its output is not finite")
    largest = float(flat.abs().max())
    last, count = len(flat) - 1, min(_VALUES, len(flat))
    places = torch.tensor([index * last // max(count - 1, 1) for index in range(count)])
    shares = flat[places] / (largest or 1.0)
    return ProbeOutput(
        shape=tuple(tensor.shape),
        dtype=_dtype_name(tensor.dtype),
        largest=float(f"{largest:.{_DIGITS}g}"),
        rms=float(f"{float(flat.square().mean().sqrt()):.{_DIGITS}g}"),
        values=tuple(round(float(share), _DIGITS) + 0.0 for share in shares),  # + 0.0: no minus zero
    )


def _difference(
    stored: Sequence[ProbeOutput], outputs: Sequence[ProbeOutput], *, elsewhere: bool = False
) -> str | None:
    if len(stored) != len(outputs):
        return f"it outputs {len(outputs)} tensors instead of {len(stored)}"
    for number, (expected, actual) in enumerate(zip(stored, outputs, strict=True)):
        if expected.shape != actual.shape:
            return f"output {number} has shape {list(actual.shape)} instead of {list(expected.shape)}"
        if expected.dtype != actual.dtype:
            return f"output {number} has dtype {actual.dtype} instead of {expected.dtype}"
        tolerance = _TOLERANCES[getattr(torch, expected.dtype)]
        tolerance = max(tolerance, ACCELERATOR) if elsewhere else tolerance
        scale = expected.largest
        gaps = [abs(expected.rms - actual.rms), abs(scale - actual.largest)]
        gaps += [abs(a * scale - b * actual.largest) for a, b in zip(expected.values, actual.values, strict=True)]
        if not max(gaps) <= tolerance * scale:
            share = f"{max(gaps) / scale:.2g} of its largest value" if scale else f"{max(gaps):.2g} where it was zero"
            return f"output {number} differs by {share} (tolerance {tolerance:g})"
    return None


def _float_dtype(model: nn.Module) -> torch.dtype:
    tensors = [*model.parameters(), *model.buffers()]
    return next((tensor.dtype for tensor in tensors if tensor.dtype in _TOLERANCES), torch.float32)


def _dtype_name(dtype: torch.dtype) -> DtypeName:
    name: DtypeName = str(dtype).removeprefix("torch.")  # type: ignore[assignment]  # one of TOLERANCES
    return name
