"""Fake quantisation: a network in floating point whose weights are those that integers stand for."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from reconvene.errors import ArgumentError
from reconvene.quantiser.activations import Range, RoundedInputs
from reconvene.quantiser.uniform import quantise
from reconvene.structure.copies import copy_model
from reconvene.structure.inputs import copied_arguments
from reconvene.utils.arrays import Ints


def fake_quantised(model: nn.Module, bits: Mapping[str, tuple[int, Ints]]) -> nn.Module:
    """A copy in which these weights are rounded to what their bits can hold.

    Args:
        model: the network, only read.
        bits: dimension of the output channels, and bits of each, by the name of the weight.
    """
    rounded = copy_model(model)
    parameters = dict(rounded.named_parameters())
    with torch.no_grad():
        for name, (axis, widths) in bits.items():
            parameters[name].copy_(quantise(parameters[name], widths, axis=axis).values)
    return rounded


Ranges = Mapping[str, Range]
"""Scale and zero point of what layers read, by the name of the layer."""


def as_exported(
    model: nn.Module,
    bits: Mapping[str, tuple[int, Ints]],
    inputs: Mapping[str, int],
    calibration: Any,
    ranges: Ranges = MappingProxyType({}),
) -> nn.Module:
    """A network in eval mode that computes as the file of a plan of bits does: rounded weights, and few bits read.

    Where layers read 8 bits, as most files have it, their rounding is left out: int8 files lose next to nothing by it.

    Args:
        model: the network, only read.
        bits: as for ``fake_quantised``.
        inputs: bits of what layers read by the name of the layer, where these are fewer than 8.
        calibration: example inputs that the ranges of activations cover; None where all of them are given.
        ranges: those that are known, from training, in place of measured ones.
    """
    rounded = fake_quantised(model, bits).eval()
    return with_few_bits_read(rounded, inputs, calibration, ranges) if inputs else rounded


def with_few_bits_read(
    model: nn.Module, inputs: Mapping[str, int], calibration: Any, ranges: Ranges = MappingProxyType({})
) -> nn.Module:
    """``model`` itself, in eval mode, within a module that rounds what some layers read; args as ``as_exported``."""
    if calibration is None and not inputs.keys() <= ranges.keys():
        unknown = next(name for name in inputs if name not in ranges)
        raise ArgumentError(
            f"layer {unknown!r} reads few bits, and nothing says in which range. Give calibration, example inputs"
        )
    return FewBitsRead(model, inputs, calibration, ranges)


class FewBitsRead(nn.Module):
    """A network whose layers read few bits; ``rounded`` has their ranges."""

    def __init__(self, network: nn.Module, inputs: Mapping[str, int], calibration: Any, ranges: Ranges) -> None:
        super().__init__()
        self.network = network.eval()  # ranges are those of the network that is used
        self.rounded = RoundedInputs(network, inputs, inputs)
        self.rounded.hold(ranges)
        if not inputs.keys() <= ranges.keys():
            args, kwargs = copied_arguments(calibration)
            with torch.no_grad(), self.rounded.rounding(follow=True):
                network(*args, **kwargs)
        self.eval()

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the network outputs."""
        with self.rounded.rounding(follow=False):
            return self.network(*args, **kwargs)


def round_while_training(model: nn.Module, bits: Mapping[str, tuple[int, Ints]]) -> None:
    """Let the network compute with rounded weights while it is trained, in place; gradients pass straight through.

    ``stop_quantised`` ends it. Args as for ``fake_quantised``.
    """
    for name, (axis, widths) in bits.items():
        path, _, attribute = name.rpartition(".")
        parametrize.register_parametrization(model.get_submodule(path), attribute, _Rounded(axis, widths), unsafe=True)


def stop_quantised(model: nn.Module, bits: Mapping[str, tuple[int, Ints]]) -> None:
    """End ``round_while_training``: the weights stay real numbers, and are rounded again when they are exported."""
    for name in bits:
        path, _, attribute = name.rpartition(".")
        parametrize.remove_parametrizations(model.get_submodule(path), attribute, leave_parametrized=False)


class _Rounded(nn.Module):
    """A weight as it is rounded to, with the gradient of the weight itself (straight-through, 1308.3432)."""

    def __init__(self, axis: int, widths: Ints) -> None:
        super().__init__()
        self.axis, self.widths = axis, widths

    def forward(self, weight: Tensor) -> Any:
        values = quantise(weight, self.widths, axis=self.axis).values
        return weight + (values - weight).detach()
