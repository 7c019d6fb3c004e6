"""What quantising to int8 needs to know: real samples to calibrate on, and which layers are to stay in float32."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from reconvene.deploy.model_io import batch_size, is_batched, labelled_samples, leaves, noise, take_samples
from reconvene.errors import DataError, ExportError, UnknownNameError
from reconvene.quantiser.activations import Range

PRECISIONS = ("fp32", "int8")
# More change the observed ranges little; each is one pass through the network.
CALIBRATION_SAMPLES = 256
STAND_INS = 4
_LAYERS = (
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
    nn.Linear,
)
"""What counts as a layer that can be quantised, or kept in float32, by its name."""


@dataclass(frozen=True, eq=False)
class Quantisation:
    """Inputs to calibrate on (joined, first dimension the sample), and full names of the layers kept in float32.

    ``learned`` are ranges of activations from quantisation-aware training, in place of calibrated ones; ``targets``
    what the calibration data says of each sample, where it says so; ``packed`` weights of few bits by name, and
    ``inputs`` what layers read in fewer than 8 bits by name, see ``reconvene.deploy.planned``.
    """

    samples: Any
    keep_fp32: tuple[str, ...] = ()
    learned: Mapping[str, Range] | None = None
    targets: Tensor | None = None
    packed: Mapping[str, Any] = field(default_factory=dict)
    inputs: Mapping[str, Any] = field(default_factory=dict)

    @property
    def packed_in_int8(self) -> dict[str, Any]:
        """The packed weights but for those of layers kept in float32."""
        return {
            name: weight for name, weight in self.packed.items() if not within(name.rpartition(".")[0], self.keep_fp32)
        }

    def __len__(self) -> int:
        return batch_size(self.samples)

    def batches(self, size: int, *, full: bool = False) -> Iterator[Any]:
        """The samples in batches of ``size``, the last one smaller where they do not divide.

        ``full`` fills the last one up with the first samples: a static batch takes no other number.
        """
        for start in range(0, len(self), size):
            yield take_samples(self.samples, start, size if full else min(size, len(self) - start))


def quantisation(
    model: nn.Module,
    example_inputs: Any,
    calibration: Iterable[Any] | None,
    keep_fp32: Sequence[str] = (),
    learned: Mapping[str, Range] | None = None,
) -> Quantisation:
    """Check what is to be calibrated on and kept, before any work is done.

    ``calibration`` is an iterable of ``(inputs, target)`` batches or of bare inputs, of which up to
    ``CALIBRATION_SAMPLES`` samples are used. A name in ``keep_fp32`` stands for a layer, or for all layers within it.

    Raises ExportError (no calibration), DataError (wrong shape, type, or not finite), UnknownNameError (no such layer).
    """
    if calibration is None:
        raise ExportError("int8 is calibrated on real data: pass calibration, batches such as those of training")
    if double := [name for name, values in model.named_parameters() if values.dtype == torch.float64]:
        raise ExportError(
            f"runtimes round float32 to int8, and {double[0]} is in float64: export model.float(), with example_inputs "
            "and calibration in float32"
        )
    samples, targets = labelled_samples(_checked(calibration, example_inputs), CALIBRATION_SAMPLES)
    for tensor in leaves(samples):
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise DataError("the calibration data holds values that are not finite (NaN or infinity)")
    return Quantisation(samples, _kept(model, keep_fp32), learned, targets)


def stand_in(example_inputs: Any) -> Quantisation:
    """Noise to calibrate on, where only what does not depend on values is wanted: time, memory, bytes."""
    return Quantisation(noise(example_inputs, STAND_INS, seed=0))


def quantised_layers(model: nn.Module) -> dict[str, nn.Module]:
    """The layers that hold the weights, by name, in the order of the model."""
    return {name: module for name, module in model.named_modules() if isinstance(module, _LAYERS)}


def _kept(model: nn.Module, names: Sequence[str]) -> tuple[str, ...]:
    layer_names = list(quantised_layers(model))
    for name in names:
        if not any(within(layer, [name]) for layer in layer_names):
            raise UnknownNameError("layer", name, layer_names)
    return tuple(layer for layer in layer_names if within(layer, names))


def within(layer: str, names: Iterable[str]) -> bool:
    """Whether a layer is one of ``names``, or lies within one of them."""
    return any(layer == name or layer.startswith(f"{name}.") for name in names)


def _checked(calibration: Iterable[Any], example_inputs: Any) -> Iterator[Any]:
    """The batches as they come; DataError at the first that the model would not take."""
    examples, size = leaves(example_inputs), batch_size(example_inputs)
    for number, batch in enumerate(calibration):
        inputs = batch[0] if isinstance(batch, (tuple, list)) else batch
        tensors = leaves(inputs)
        shapes = [_shape(tensor, batch_size(inputs)) for tensor in tensors]
        expected = [_shape(tensor, size) for tensor in examples]
        if shapes != expected:
            raise DataError(f"calibration batch {number} has inputs {_told(shapes)}; the model takes {_told(expected)}")
        types, expected_types = [tensor.dtype for tensor in tensors], [tensor.dtype for tensor in examples]
        if types != expected_types:
            raise DataError(f"calibration batch {number} has inputs of {types}; the model takes {expected_types}")
        yield (inputs, batch[1]) if isinstance(batch, (tuple, list)) and len(batch) > 1 else (inputs, None)


def _shape(tensor: Tensor, batch: int) -> tuple[int | str, ...]:
    return ("batch", *tensor.shape[1:]) if is_batched(tensor, batch) else tuple(tensor.shape)


def _told(shapes: list[tuple[int | str, ...]]) -> str:
    return ", ".join(f"[{', '.join(map(str, shape))}]" for shape in shapes)
