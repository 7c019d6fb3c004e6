"""The probe of an artifact: what its model puts out for one seeded input, kept at save and compared after every load.

The input is a description (shape, dtype, seed), so the probe is a few numbers in the manifest. Weights that fit a
module can still compute something else there: a module that migrates weights by their version, code of another release,
an attribute that was changed after construction.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from reconvene.errors import ArtifactError
from reconvene.models import example_inputs
from reconvene.models.seeding import seeded
from reconvene.rectifier.calibration import undisturbed
from reconvene.structure import tensors_in

SEED = 0
VALUES = 64
"""Numbers kept of each output tensor, evenly spaced, besides its largest magnitude and its root mean square."""
DIGITS = 6
"""Decimal digits kept of a value's share of the largest: what kernels of another machine change lies mostly below."""
TOLERANCES = {torch.float64: 1e-6, torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 5e-2}
"""Largest difference, as a share of an output's largest magnitude, by the dtype of the output. Kernels of another
processor, number of threads or release of torch differ by about 1e-6 in float32."""
ACCELERATOR = 1e-2
"""In float32 between an accelerator, whose convolutions may round to ten bits (TF32), and the CPU."""
MOVED = 1e-6
"""Relative change of the input that must not move the output beyond the tolerance: else it says nothing elsewhere."""
_TROUBLE = (RuntimeError, TypeError, ValueError, LookupError, AttributeError, AssertionError, ArithmeticError)

Outputs = list[dict[str, Any]]


class ProbeError(Exception):
    """Why a model has no probe; the message goes into the manifest."""


def take(model: nn.Module, shape: Sequence[int] | None) -> dict[str, Any]:
    """The probe of ``model`` on its device, in plain JSON types; ``{"skipped": reason}`` where it has none.

    Args:
        model: in any mode; modes, attributes and random state are left as they are.
        shape: of one example without the batch dimension, None where it is not known.
    """
    if shape is None:
        return {"skipped": "the input shape is not known: save with a source that has input_shape"}
    description = {"shape": [1, *shape], "dtype": _dtype_name(_float_dtype(model)), "seed": SEED}
    try:
        outputs = _outputs(model, _input(description))
        moved = _outputs(model, _input(description) * (1 + MOVED))
    except ProbeError as error:
        return {"skipped": str(error)}
    if difference := _difference(outputs, moved):
        return {"skipped": f"its output is not stable: {difference} when the input changes by {MOVED:g} of itself"}
    return {"input": description, "outputs": outputs}


def differs(model: nn.Module, probe: Mapping[str, Any]) -> str | None:
    """In what ``model`` differs from the one that the probe was taken of, in words; None where it does not."""
    if "skipped" in probe:
        return None
    try:
        outputs = _outputs(model, _input(probe["input"]))
    except ProbeError as error:
        return str(error)
    return _difference(probe["outputs"], outputs, elsewhere=_device(model).type != "cpu")


def check(probe: Mapping[str, Any] | None, manifest_path: str) -> None:
    """Raise ArtifactError unless ``probe``, as read from a manifest, is one; None is that of an older version."""
    if probe is None or (set(probe) == {"skipped"} and isinstance(probe["skipped"], str)):
        return
    try:
        example = probe["input"]
        shape_fits = all(type(size) is int and 0 < size <= 2**16 for size in example["shape"]) and example["shape"]
        fits = shape_fits and math.prod(example["shape"]) <= 2**28 and type(example["seed"]) is int
        fits = fits and getattr(torch, example["dtype"], None) in TOLERANCES and bool(probe["outputs"])
        for output in probe["outputs"]:
            numbers = [output["largest"], output["rms"], *output["values"]]
            fits = fits and all(type(value) in (int, float) for value in numbers)
            fits = fits and getattr(torch, output["dtype"], None) in TOLERANCES
            fits = fits and len(output["values"]) == min(VALUES, math.prod(output["shape"]))
    except (KeyError, TypeError, AttributeError) as error:
        raise ArtifactError(f"{manifest_path} does not say what it must: its probe lacks or garbles {error}") from error
    if not fits:
        raise ArtifactError(f"{manifest_path} does not say what it must: its probe has values of a wrong kind or size")


def _outputs(model: nn.Module, example: Tensor) -> Outputs:
    """A summary of every floating output for ``example``. Raises ProbeError."""
    example = example.to(_device(model))
    with seeded(SEED), undisturbed(model, seed=SEED), _kept_buffers(model):
        try:
            tensors = [tensor for tensor in tensors_in(model(example)) if tensor.is_floating_point()]
        except _TROUBLE as error:
            reason = " ".join(str(error).split())[:200]
            raise ProbeError(f"it does not run on {list(example.shape)}: {type(error).__name__}: {reason}") from error
    outputs = [_summary(tensor) for tensor in tensors if tensor.numel() and tensor.dtype in TOLERANCES]
    if not outputs:
        raise ProbeError("it puts out no floating-point tensor")
    return outputs


@contextmanager
def _kept_buffers(model: nn.Module) -> Iterator[None]:
    """Afterwards buffers have their values again: a forward pass may update them in place, in eval mode too."""
    before = [(buffer, buffer.detach().clone()) for buffer in model.buffers()]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, value in before:
                if not torch.equal(buffer, value):
                    buffer.copy_(value)


def _summary(tensor: Tensor) -> dict[str, Any]:
    flat = tensor.detach().cpu().reshape(-1).double()
    if not bool(flat.isfinite().all()):
        raise ProbeError("its output is not finite")
    largest = float(flat.abs().max())
    last, count = len(flat) - 1, min(VALUES, len(flat))
    places = torch.tensor([index * last // max(count - 1, 1) for index in range(count)])
    shares = flat[places] / (largest or 1.0)
    return {
        "shape": list(tensor.shape),
        "dtype": _dtype_name(tensor.dtype),
        "largest": float(f"{largest:.{DIGITS}g}"),
        "rms": float(f"{float(flat.square().mean().sqrt()):.{DIGITS}g}"),
        "values": [round(float(share), DIGITS) + 0.0 for share in shares],  # + 0.0: no minus zero
    }


def _difference(stored: Outputs, outputs: Outputs, *, elsewhere: bool = False) -> str | None:
    if len(stored) != len(outputs):
        return f"it puts out {len(outputs)} tensors instead of {len(stored)}"
    for number, (expected, actual) in enumerate(zip(stored, outputs, strict=True)):
        for fact in ("shape", "dtype"):
            if expected[fact] != actual[fact]:
                return f"output {number} has {fact} {actual[fact]} instead of {expected[fact]}"
        tolerance = TOLERANCES[getattr(torch, expected["dtype"])]
        tolerance = max(tolerance, ACCELERATOR) if elsewhere else tolerance
        scale = expected["largest"]
        gaps = [abs(expected["rms"] - actual["rms"]), abs(scale - actual["largest"])]
        gaps += [
            abs(a * scale - b * actual["largest"]) for a, b in zip(expected["values"], actual["values"], strict=True)
        ]
        if not max(gaps) <= tolerance * scale:
            share = f"{max(gaps) / scale:.2g} of its largest value" if scale else f"{max(gaps):.2g} where it was zero"
            return f"output {number} differs by {share} (tolerance {tolerance:g})"
    return None


def _input(description: Mapping[str, Any]) -> Tensor:
    _, *shape = description["shape"]
    dtype: torch.dtype = getattr(torch, description["dtype"])
    return example_inputs(tuple(shape), seed=description["seed"]).to(dtype)


def _float_dtype(model: nn.Module) -> torch.dtype:
    tensors = [*model.parameters(), *model.buffers()]
    return next((tensor.dtype for tensor in tensors if tensor.dtype in TOLERANCES), torch.float32)


def _device(model: nn.Module) -> torch.device:
    return next((tensor.device for tensor in (*model.parameters(), *model.buffers())), torch.device("cpu"))


def _dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
