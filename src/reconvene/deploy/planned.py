"""The bits of a plan on their way into a file: integers of every weight, and the network that they make."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from reconvene.data import Dataset, stratified_calibration
from reconvene.deploy.model_io import labelled_samples
from reconvene.deploy.quantisation import CALIBRATION_SAMPLES, within
from reconvene.deploy.runtimes.base import Runtime
from reconvene.errors import ExportError
from reconvene.quantiser import QuantisedWeight, fake_quantised, quantise
from reconvene.quantiser.activations import Range
from reconvene.quantiser.fake import FewBitsRead, as_exported, with_few_bits_read
from reconvene.structure.copies import copy_model
from reconvene.surgery.bits import BitPlan, LayerBits
from reconvene.training.frozen_bits import trained_ranges

PLAN = "plan"
"""What an export is quantised as whose bits the plan of the network decides."""
PACKED = "packed"
"""What runtimes take whose files can hold weights of few bits."""
NARROW_INPUTS = "narrow_inputs"
"""What runtimes take whose files can let layers read fewer than 8 bits."""
LACKING = {PACKED: "weights below 8 bits", NARROW_INPUTS: "activations below 8 bits"}
"""What a file has not whose runtime does not take this."""
_WHY_NOT = {
    "executorch": "XNNPACK computes convolutions in 8 bits, and of 4 bits linear layers only",
    "ncnn": "ncnn has no weights below 8 bits",
}


@dataclass(frozen=True)
class NarrowInput:
    """Bits of what a layer reads, the width of a step, and the integer that stands for zero."""

    bits: int
    scale: float
    zero_point: int


@dataclass(frozen=True, eq=False)
class PackedWeight:
    """A weight of the small network as integers, with the bits of its channels.

    ``aliases``: the other names of a parameter that several modules have.
    """

    quantised: QuantisedWeight
    layer: LayerBits
    aliases: tuple[str, ...] = ()

    @staticmethod
    def by_every_name(weights: Mapping[str, PackedWeight]) -> dict[str, str]:
        """The name in the plan by each name that a weight has in the network."""
        return {own: name for name, packed in weights.items() for own in (name, *packed.aliases)}

    def rows(self, part: slice) -> PackedWeight:
        """Some of the output channels; all of them for ``slice(None)``."""
        if part == slice(None):
            return self
        whole = self.quantised
        index = [slice(None)] * whole.integers.ndim
        index[whole.axis] = part
        quantised = QuantisedWeight(whole.integers[tuple(index)], whole.scale[part], whole.axis)
        return PackedWeight(quantised, LayerBits.of(self.layer.axis, self.layer.bits[part]))


@dataclass(frozen=True, eq=False)
class Planned:
    """The fake-quantised network, its weights as integers by name, and what to calibrate activations on.

    ``inputs``: bits of what layers read by the name of the layer, where these are fewer than 8; ``ranges``: those of
    these that the network was trained with.
    """

    model: nn.Module
    weights: Mapping[str, PackedWeight]
    calibration: Iterable[Any]
    inputs: Mapping[str, int]
    ranges: Mapping[str, Range]

    def as_computed(self, samples: Any) -> nn.Module:
        """The network whose layers read as few bits as the plan says, in ranges of training or of these samples."""
        if not self.inputs:
            return self.model
        return with_few_bits_read(copy_model(self.model), self.inputs, samples, self.ranges)

    def narrow(self, computed: nn.Module) -> dict[str, NarrowInput]:
        """What its layers read in fewer than 8 bits, in the ranges of ``as_computed``, by the name of the layer."""
        if not isinstance(computed, FewBitsRead):
            return {}
        return {name: NarrowInput(self.inputs[name], *steps) for name, steps in computed.rounded.scales().items()}


def as_file_computes(model: nn.Module, dataset: Dataset, *, seed: int = 0) -> nn.Module:
    """The network that is judged: rounded as in its file where the plan of ``model`` has bits, else ``model`` itself.

    Ranges of activations of few bits are those of its training; where it had none they cover training images of
    ``dataset``, as many as an export is calibrated on.
    """
    bits = bits_of(model)
    if bits is None:
        return model
    samples, ranges = None, trained_ranges(model, bits)
    if not bits.inputs.keys() <= ranges.keys():
        images = stratified_calibration(dataset, CALIBRATION_SAMPLES, seed=seed, batch_size=32)
        samples, _ = labelled_samples(images, CALIBRATION_SAMPLES)
    return as_exported(model, bits.by_weight, bits.inputs, samples, ranges)


def bits_of(model: nn.Module) -> BitPlan | None:
    """The bits in the plan that a network carries; None without a plan, or without bits in it."""
    bits: BitPlan | None = getattr(getattr(model, "reconvene_plan", None), "bits", None)
    return bits


def planned(
    model: nn.Module, runtime: Runtime, calibration: Iterable[Any] | None, keep_fp32: Sequence[str] = ()
) -> Planned:
    """Round the weights of a small network to the bits of its plan, but for the layers that stay in float32.

    Raises ExportError: the format cannot hold them, the network has no plan of bits or another shape, or there is
    nothing to calibrate on.
    """
    name = str(runtime.file_format)
    if PACKED not in runtime.takes:
        because = _WHY_NOT.get(name, f"{name} files hold no weights below 8 bits here")
        raise ExportError(
            f"quantize='plan' is for onnx, openvino and litert: {because}. quantize='int8' writes 8 bits everywhere"
        )
    plan = getattr(model, "reconvene_plan", None)
    bits = bits_of(model)
    if bits is None:
        raise ExportError(
            f"{type(model).__name__} has no plan of bits. rc.prune(model, x, budget, bits=(0, 2, 4, 8), ...) makes one"
        )
    if bits.inputs and NARROW_INPUTS not in runtime.takes:
        raise ExportError(
            f"the plan lets {len(bits.inputs)} layers read fewer than 8 bits ({next(iter(bits.inputs))}), and {name} "
            "files have 8 bits there. format='onnx' holds them; so does every format a plan with activation_bits=(8,)"
        )
    if calibration is None and plan is not None and plan.calibration is not None:
        calibration = [(plan.calibration, None)]  # a pair: inputs that are a tuple would be taken for one
    if calibration is None:
        raise ExportError(
            "activations are calibrated on real data: pass calibration, batches such as those of training. (A plan "
            "that was just made with data remembers some of them; one that was loaded does not)"
        )
    layers = {name: layer for name, layer in bits.layers.items() if not within(name.rpartition(".")[0], keep_fp32)}
    parameters = dict(model.named_parameters())
    for weight, layer in layers.items():
        if weight not in parameters or parameters[weight].shape[layer.axis] != len(layer.bits):
            raise ExportError(f"the plan gives bits to {len(layer.bits)} channels of {weight}, and the network differs")
    names = defaultdict[Tensor, list[str]](list)
    for weight, parameter in model.named_parameters(remove_duplicate=False):
        names[parameter].append(weight)
    weights = {
        weight: PackedWeight(
            quantise(parameters[weight], layer.bits, axis=layer.axis),
            layer,
            tuple(name for name in names[parameters[weight]] if name != weight),
        )
        for weight, layer in layers.items()
    }
    rounded = fake_quantised(model, replace(bits, layers=layers).by_weight)
    return Planned(rounded, weights, calibration, bits.inputs, trained_ranges(model, bits))
