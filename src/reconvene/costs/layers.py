"""The layers of a network that compute products, with the sizes that formulas of costs read, at any widths and bits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from reconvene.costs.layer_rule import CONVOLUTION, DEPTHWISE, LINEAR, PRODUCT
from reconvene.costs.macs import examples_of
from reconvene.costs.sizes import Products, Sizes, sizes_of
from reconvene.structure import Structure
from reconvene.structure.labels import Dim
from reconvene.structure.layer_weights import is_depthwise, matrices
from reconvene.structure.recording import Op, memory_of
from reconvene.structure.rules.context import arg

if TYPE_CHECKING:
    from reconvene.utils.arrays import Ints


@dataclass(frozen=True, eq=False)
class Layer:
    """One convolution or matrix product.

    Attributes:
        name: the module that calls it.
        weight: name of the weight; empty for a product of two activations.
        axis: dimension of the weight that its output channels lie along.
        kind: one of ``layer_rule.KINDS``.
        kernel: size of the kernel; empty for matrix products.
        outputs: output channels.
        inputs: input channels that each output channel reads.
        places: sizes whose product is the number of times the weight is applied, samples included.
        source: number of the memory that it reads; views of one tensor have the same.
    """

    name: str
    weight: str
    axis: int
    kind: str
    kernel: tuple[int, ...]
    outputs: Dim
    inputs: Dim
    places: tuple[Dim, ...]
    source: int


@dataclass(frozen=True)
class LayerSizes:
    """The sizes of one layer at certain widths. ``spatial``: of the output, one number an axis; ``samples``: calls."""

    outputs: int
    inputs: int
    samples: int
    spatial: tuple[int, ...]


def layers_of(structure: Structure) -> list[Layer]:
    """Every convolution and matrix product of one forward pass, in the order of the calls."""
    weights = matrices(structure)
    calls = structure.recording.ops
    return [
        _layer(structure, calls[number], list(dims), weights)
        for number, dims in structure.context.products
        if not calls[number].training
    ]


class LayerTable:
    """The layers of a structure, and their sizes at any widths, for one example of the example inputs."""

    def __init__(self, structure: Structure) -> None:
        self.layers = layers_of(structure)
        self._examples = examples_of(structure)
        self._sizes: Sizes = sizes_of(structure)
        rows = [(layer.outputs, layer.inputs, *layer.places) for layer in self.layers]
        self._starts = np.cumsum([0, *map(len, rows)]).tolist()
        self._products = Products(self._sizes, [[dim] for row in rows for dim in row])

    def at(self, widths: Ints) -> list[LayerSizes]:
        """The sizes of every layer at these widths, int64 ``[groups]``."""
        sizes = self._products.terms(self._sizes.at(widths)).tolist()
        bounds = zip(self._starts, self._starts[1:], strict=False)
        return [_layer_sizes(self._examples, *sizes[start:end]) for start, end in bounds]


def _layer_sizes(examples: int, outputs: int, inputs: int, samples: int, *spatial: int) -> LayerSizes:
    """Of one example: convolutions count them in ``samples``, matrix products in their rows."""
    if samples % examples == 0:
        return LayerSizes(outputs, inputs, samples // examples, spatial)
    if len(spatial) == 1 and spatial[0] % examples == 0:
        return LayerSizes(outputs, inputs, samples, (spatial[0] // examples,))
    return LayerSizes(outputs, inputs, samples, spatial)  # once for all examples


def _layer(structure: Structure, op: Op, dims: list[Dim], weights: Mapping[int, tuple[str, int]]) -> Layer:
    if op.operator.startswith("convolution"):
        return _convolution(structure, op, dims)
    # The weight of a linear layer is the second operand of a matrix product.
    operands = op.args[1:] if op.operator in ("addmm", "baddbmm") else op.args
    name, axis = next((weights[id(t)] for t in operands[1:2] if id(t) in weights), ("", 0))
    *places, outputs, inputs = dims
    return Layer(
        name=op.owner,
        weight=name,
        axis=axis,
        kind=LINEAR if name else PRODUCT,
        kernel=(),
        outputs=outputs,
        inputs=inputs,
        places=((), tuple(f for dim in places for f in dim)),
        source=memory_of(operands[0]),
    )


def _convolution(structure: Structure, op: Op, dims: list[Dim]) -> Layer:
    weight = op.args[1]
    transposed = bool(arg(op, 6, "transposed", False))
    names = {id(tensor): name for name, tensor in structure.recording.parameters.items()}
    rank = weight.ndim - 2
    samples, outputs, inputs, *spatial = dims[: 3 + rank]
    return Layer(
        name=op.owner,
        weight=names.get(id(weight), ""),
        axis=1 if transposed else 0,
        kind=DEPTHWISE if is_depthwise(op) else CONVOLUTION,
        kernel=tuple(weight.shape[2:]),
        outputs=outputs,
        inputs=inputs,
        places=(samples, *spatial),
        source=memory_of(op.args[0]),
    )
